"""How Redis is reached: one server, the master that Sentinels name, or a cluster. Nothing here connects."""

from __future__ import annotations

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException
from redis.retry import Retry

from ..._util.suggest import mistyped_argument
from ...errors import ConfigurationError
from ..base import Backend

TIMEOUT = 0.25
"""Seconds to wait for a connection and for a reply, unless the URL or an option says otherwise."""

SENTINEL_TIMEOUT = 0.1
"""The same for each Sentinel; the option ``sentinel_kwargs`` may say otherwise."""

_DEFAULTS = {
    "socket_timeout": TIMEOUT,
    "socket_connect_timeout": TIMEOUT,
    "max_connections": 10_000,  # as many as threads ask at once; to redis-py's own bound of 100, one more is an error
    "protocol": 2,  # with 3 redis-py trusts connections that the server has closed, and may lengthen the timeouts
}

PLACES = 32
"""So many coroutines of one event loop ask at once; the others wait, which is no error."""

_URLS = {
    "redis": "redis://:password@host:6379/0",
    "rediss": "rediss://:password@host:6379/0",
    "unix": "unix:///path/to/redis.sock?db=0",
    "redis+sentinel": "redis+sentinel://:password@host:26379,host2:26379/SERVICE?db=0",
    "rediss+sentinel": "rediss+sentinel://:password@host:26379,host2:26379/SERVICE?db=0",
    "redis+cluster": "redis+cluster://:password@host:6379,host2:6379",
    "rediss+cluster": "rediss+cluster://:password@host:6379,host2:6379",
}

# Without types in redis-py:
_parse_url: Any = redis.connection.parse_url
_sentinel: Any = redis.Sentinel
_async_sentinel: Any = redis.asyncio.Sentinel
_Node: Any = redis.cluster.ClusterNode

Options = Mapping[str, Any]


class Servers(ABC):
    """What a URL names, as makers of clients; clients that know each other's state are closed by who made them."""

    clustered = False
    places: int
    """How many questions of one event loop may be under way."""
    patience: float | None
    """Seconds that one question may take in an event loop, connecting included. None is for ever."""
    search: float = 0.0
    """Seconds more while nobody has answered, so that it has to be found out whom to ask."""

    @abstractmethod
    def client(self) -> Any:
        """A blocking client, which nobody else has."""

    @abstractmethod
    def async_client(self) -> Any:
        """One for the running event loop."""

    def close(self, client: Any) -> None:
        """Close the connections of a blocking client."""
        client.close()

    async def aclose(self, client: Any) -> None:
        """Close those of one that does not block."""
        await client.aclose()


def servers(url: str, options: Options) -> Servers:
    """What ``url`` names. A wrong option is refused here, not when it connects.

    Raises:
        ConfigurationError: the URL or an option makes no sense.
    """
    scheme = url.partition("://")[0]
    if scheme not in _URLS:
        scheme = scheme if scheme.isidentifier() else ""  # else it may be anything, a password too
        raise ConfigurationError(f"{scheme}://...: write a URL like one of {', '.join(_URLS.values())}")
    kind = Cluster if scheme.endswith("+cluster") else Sentinels if scheme.endswith("+sentinel") else OneServer
    try:
        return kind(url, options)
    except (ValueError, TypeError, redis.RedisError, RedisClusterException) as error:
        known = [*inspect.signature(redis.Redis).parameters, *inspect.signature(Backend).parameters, "key_prefix"]
        near = mistyped_argument(error, known)
        raise ConfigurationError(f"{scheme}://...: {error}{near or f'; write a URL like {_URLS[scheme]}'}") from error


class OneServer(Servers):
    """``redis://``, ``rediss://`` and ``unix://``, as redis-py takes them."""

    def __init__(self, url: str, options: Options) -> None:
        parts = urlsplit(url)
        scheme = parts.scheme
        _port(parts)
        merged = {**_DEFAULTS, **options, **_parse_url(url)}
        merged.pop("connection_class", None)
        self._blocking, self._in_loops = {
            "redis": (redis.Connection, redis.asyncio.Connection),
            "rediss": (redis.SSLConnection, redis.asyncio.SSLConnection),
            "unix": (redis.UnixDomainSocketConnection, redis.asyncio.UnixDomainSocketConnection),
        }["rediss" if merged.pop("ssl", False) else scheme]
        self._blocking = options.get("connection_class", self._blocking)
        self._options = merged
        self.places = min(PLACES, merged["max_connections"])
        self.patience = _longest(merged)
        self.client()

    def client(self) -> Any:
        """A blocking client."""
        options = {"retry": Retry(NoBackoff(), 0), **self._options}
        return _check(redis.Redis.from_pool(redis.ConnectionPool(connection_class=self._blocking, **options)))

    def async_client(self) -> Any:
        """One for the running event loop."""
        pool = redis.asyncio.ConnectionPool(connection_class=self._in_loops, **_in_loop(self._options))
        return _check(redis.asyncio.Redis.from_pool(pool))


class _Manager(_sentinel):  # type: ignore[misc] # without types
    """Threads ask the Sentinels at the same time.

    redis-py moves the one that answered to the front of its list, under the feet of the threads that are going through
    it: they would ask the same dead one twice, and nobody else.
    """

    sentinels: list[Any]

    def discover_master(self, service_name: str) -> Any:
        walk = copy.copy(self)
        walk.sentinels = list(self.sentinels)
        found = _sentinel.discover_master(walk, service_name)
        self.sentinels = walk.sentinels
        return found


class _AsyncManager(_async_sentinel):  # type: ignore[misc] # without types
    """The same for the tasks of an event loop."""

    sentinels: list[Any]

    async def discover_master(self, service_name: str) -> Any:
        walk = copy.copy(self)
        walk.sentinels = list(self.sentinels)
        found = await _async_sentinel.discover_master(walk, service_name)
        self.sentinels = walk.sentinels
        return found


class Sentinels(Servers):
    """``redis+sentinel://``: whoever the Sentinels call the master of a service, asked at each new connection."""

    def __init__(self, url: str, options: Options) -> None:
        self._addresses, self._service, given = _split(url, 26379)
        if not self._service or "/" in self._service:
            raise ValueError("the path should be the name of the service that the Sentinels watch")
        merged = {**_DEFAULTS, **options, **given}
        short = {"socket_timeout": SENTINEL_TIMEOUT, "socket_connect_timeout": SENTINEL_TIMEOUT}
        alike = {name: value for name, value in merged.items() if name.startswith("ssl")}
        self._asked: dict[str, Any] = {**_DEFAULTS, **short, **alike, **merged.pop("sentinel_kwargs", {})}
        self._options = merged
        self.places = min(PLACES, merged["max_connections"])
        self.patience, each = _longest(merged), _longest(self._asked)
        if self.patience is not None and each is not None:
            self.search = len(self._addresses) * each
        else:
            self.patience = None
        self.client()

    def client(self) -> Any:
        """A blocking client."""
        once = {"retry": Retry(NoBackoff(), 0)}
        manager = _Manager(self._addresses, sentinel_kwargs={**self._asked, **once})
        for sentinel in manager.sentinels:
            _check(sentinel)
        return _check(manager.master_for(self._service, **{**once, **self._options}))

    def async_client(self) -> Any:
        """One for the running event loop."""
        once = {"retry": AsyncRetry(NoBackoff(), 0)}
        manager = _AsyncManager(self._addresses, sentinel_kwargs={**self._asked, **once})
        return _check(manager.master_for(self._service, **_in_loop(self._options)))

    def close(self, client: Any) -> None:
        """Close the connections to the master and to the Sentinels."""
        for each in (client, *client.connection_pool.sentinel_manager.sentinels):
            each.close()

    async def aclose(self, client: Any) -> None:
        """Close the connections to the master and to the Sentinels."""
        for each in (client, *client.connection_pool.sentinel_manager.sentinels):
            await each.aclose()


class Cluster(Servers):
    """``redis+cluster://``: a blocking client of it connects when it is made."""

    clustered = True

    def __init__(self, url: str, options: Options) -> None:
        self._addresses, path, given = _split(url, 6379)
        self._options = {**_DEFAULTS, "db": path or 0, **options, **given}
        database = self._options.pop("db")
        if str(database) != "0":
            raise ValueError(f"a cluster has no database {database!r}")
        self._options.pop("retry", None)
        self.places = min(PLACES, self._options["max_connections"])
        each = _longest(self._options)
        self.patience = None if each is None else 3 * each  # one member hangs, another says who took over, and is asked
        self.async_client()

    def client(self) -> Any:
        """A blocking client."""
        nodes = [_Node(*address) for address in self._addresses]
        return redis.RedisCluster(startup_nodes=nodes, retry=Retry(NoBackoff(), 0), **self._options)

    def async_client(self) -> Any:
        """One for the running event loop."""
        nodes = [redis.asyncio.cluster.ClusterNode(*address) for address in self._addresses]
        retry = AsyncRetry(NoBackoff(), 0)
        return redis.asyncio.RedisCluster(startup_nodes=nodes, retry=retry, **self._options)

    async def aclose(self, client: Any) -> None:
        """Close the connections to all members."""
        await client.aclose()
        for members in ("nodes_cache", "startup_nodes"):  # after an error it takes itself for closed
            await client.nodes_manager.aclose(members)


def _split(url: str, port: int) -> tuple[list[tuple[str, int]], str, dict[str, Any]]:
    """Addresses, path and options of a URL that names several hosts."""
    parts = urlsplit(url)
    credentials, at, hosts = parts.netloc.rpartition("@")
    addresses = []
    for host in hosts.split(","):
        address = urlsplit(f"//{host}")
        if not address.hostname:
            raise ValueError("a host is missing")
        addresses.append((address.hostname, _port(address) or port))
    given = _parse_url(f"redis://{credentials}{at}host?{parts.query}")
    del given["host"]
    if parts.scheme.startswith("rediss"):
        given["ssl"] = True
    return addresses, unquote(parts.path.strip("/")), given


def _port(parts: SplitResult) -> int | None:
    """The port. What stands there may be the beginning of a password, so the error does not say."""
    try:
        return parts.port
    except ValueError:
        raise ValueError("the port should be a number; in a password write /, ? and # as %2F, %3F and %23") from None


def _longest(options: Options) -> float | None:
    waits = options.get("socket_timeout"), options.get("socket_connect_timeout")
    return None if None in waits else max(float(wait) for wait in waits if wait is not None)


def _in_loop(options: Options) -> dict[str, Any]:
    """Options for a client whose questions have a deadline of their own: see :mod:`.session`.

    Its own timeouts would count the time for which a busy loop did not look at what had arrived. The one that is
    left also bounds how long a connection takes to close, and outlasts the deadline.
    """
    connect = options["socket_connect_timeout"]
    timeouts = {"socket_timeout": None, "socket_connect_timeout": connect and 4 * connect}
    return {**options, **timeouts, "retry": AsyncRetry(NoBackoff(), 0)}


def _check(client: Any) -> Any:
    """``client``, if its connections can be made: a wrong option is refused here."""
    pool = client.connection_pool
    pool.connection_class(**pool.connection_kwargs)
    return client
