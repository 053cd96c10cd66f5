"""Clients for each kind of URL: a single server, the master that Sentinels name, or a cluster."""

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
"""This library's default for the options ``socket_timeout`` and ``socket_connect_timeout``, in seconds."""

SENTINEL_TIMEOUT = 0.1
"""The default of both options for connections to Sentinels, in seconds. ``sentinel_kwargs`` overrides this default."""

_DEFAULTS = {
    "socket_timeout": TIMEOUT,
    "socket_connect_timeout": TIMEOUT,
    "max_connections": 10_000,  # each thread may need a connection, and raises an error if it gets none
    "protocol": 2,  # with 3, redis-py uses connections that the server has closed, and may lengthen the timeouts
}

MAX_IN_FLIGHT = 32
"""The maximum number of calls that one event loop sends to Redis at once. Further calls wait."""

_URLS = {
    "redis": "redis://:password@host:6379/0",
    "rediss": "rediss://:password@host:6379/0",
    "unix": "unix:///path/to/redis.sock?db=0",
    "redis+sentinel": "redis+sentinel://:password@host:26379,host2:26379/SERVICE?db=0",
    "rediss+sentinel": "rediss+sentinel://:password@host:26379,host2:26379/SERVICE?db=0",
    "redis+cluster": "redis+cluster://:password@host:6379,host2:6379",
    "rediss+cluster": "rediss+cluster://:password@host:6379,host2:6379",
}

# redis-py has no types for these:
_parse_url: Any = redis.connection.parse_url
_sentinel: Any = redis.Sentinel
_async_sentinel: Any = redis.asyncio.Sentinel
_Node: Any = redis.cluster.ClusterNode

Options = Mapping[str, Any]


class Topology(ABC):
    """A factory of clients for one kind of URL. It also closes the clients."""

    clustered = False
    max_in_flight: int
    """The maximum number of calls of one event loop that are in flight."""
    timeout: float | None
    """Upper bound in seconds of a call that is in flight in an event loop, with connecting. None means no bound."""
    discovery_timeout: float = 0.0
    """Seconds that are added to ``timeout`` at first and after a failure, because the master has to be found."""

    @abstractmethod
    def client(self) -> Any:
        """Make a blocking client with its own connections."""

    @abstractmethod
    def async_client(self) -> Any:
        """Make a client for the running event loop."""

    def close(self, client: Any) -> None:
        """Close the connections of a blocking client."""
        client.close()

    async def aclose(self, client: Any) -> None:
        """Close the connections of a client of an event loop."""
        await client.aclose()


def topology(url: str, options: Options) -> Topology:
    """Return the topology for ``url``. Nothing is connected yet, but wrong options raise an error.

    Raises:
        ConfigurationError: the URL or an option is wrong.
    """
    scheme = url.partition("://")[0]
    if scheme not in _URLS:
        scheme = scheme if scheme.isidentifier() else ""  # other text may contain a password, so it is not shown
        raise ConfigurationError(f"url={scheme}://...: write a URL like one of {', '.join(_URLS.values())}")
    kind = Cluster if scheme.endswith("+cluster") else Sentinels if scheme.endswith("+sentinel") else Standalone
    try:
        return kind(url, options)
    except (ValueError, TypeError, redis.RedisError, RedisClusterException) as error:
        known = [*inspect.signature(redis.Redis).parameters, *inspect.signature(Backend).parameters, "key_prefix"]
        near = mistyped_argument(error, known)
        hint = near or f"; write a URL like {_URLS[scheme]}"
        raise ConfigurationError(f"url={scheme}://...: {error}{hint}") from error


class Standalone(Topology):
    """A single server, at ``redis://``, ``rediss://`` or ``unix://`` as in redis-py."""

    def __init__(self, url: str, options: Options) -> None:
        parts = urlsplit(url)
        scheme = parts.scheme
        _port(parts)
        if scheme != "unix" and not (parts.path.strip("/") or "0").isdecimal():  # redis-py would take database 0
            raise ValueError("the path should be the number of a database; in a password write / as %2F")
        merged = {**_DEFAULTS, **options, **_parse_url(url)}
        merged.pop("connection_class", None)
        self._blocking, self._in_loops = {
            "redis": (redis.Connection, redis.asyncio.Connection),
            "rediss": (redis.SSLConnection, redis.asyncio.SSLConnection),
            "unix": (redis.UnixDomainSocketConnection, redis.asyncio.UnixDomainSocketConnection),
        }["rediss" if merged.pop("ssl", False) else scheme]
        self._blocking = options.get("connection_class", self._blocking)
        self._options = merged
        self.max_in_flight = min(MAX_IN_FLIGHT, merged["max_connections"])
        self.timeout = _longest(merged)
        self.client()

    def client(self) -> Any:
        """Make a blocking client."""
        options = {"retry": Retry(NoBackoff(), 0), **self._options}
        return _check(redis.Redis.from_pool(redis.ConnectionPool(connection_class=self._blocking, **options)))

    def async_client(self) -> Any:
        """Make a client for the running event loop."""
        pool = redis.asyncio.ConnectionPool(connection_class=self._in_loops, **_in_loop(self._options))
        return _check(redis.asyncio.Redis.from_pool(pool))


class _Manager(_sentinel):  # type: ignore[misc] # without types
    """A Sentinel manager that several threads can use at once.

    When a Sentinel names the master, redis-py swaps it with the first Sentinel in the list. A thread that iterates over
    the list meanwhile could ask one Sentinel twice and skip another. So each search iterates over a copy.
    """

    sentinels: list[Any]

    def discover_master(self, service_name: str) -> Any:
        walk = copy.copy(self)
        walk.sentinels = list(self.sentinels)
        found = _sentinel.discover_master(walk, service_name)
        self.sentinels = walk.sentinels
        return found


class _AsyncManager(_async_sentinel):  # type: ignore[misc] # without types
    """A Sentinel manager that several tasks of an event loop can use at once: see :class:`_Manager`."""

    sentinels: list[Any]

    async def discover_master(self, service_name: str) -> Any:
        walk = copy.copy(self)
        walk.sentinels = list(self.sentinels)
        found = await _async_sentinel.discover_master(walk, service_name)
        self.sentinels = walk.sentinels
        return found


class Sentinels(Topology):
    """The master of a service, at ``redis+sentinel://``. Each new connection asks the Sentinels for the master."""

    def __init__(self, url: str, options: Options) -> None:
        self._addresses, self._service, given = _split(url, 26379)
        if not self._service or "/" in self._service:
            raise ValueError("the path should be the name of the service that the Sentinels watch")
        merged = {**_DEFAULTS, **options, **given}
        short = {"socket_timeout": SENTINEL_TIMEOUT, "socket_connect_timeout": SENTINEL_TIMEOUT}
        alike = {name: value for name, value in merged.items() if name.startswith("ssl")}
        self._asked: dict[str, Any] = {**_DEFAULTS, **short, **alike, **merged.pop("sentinel_kwargs", {})}
        self._options = merged
        self.max_in_flight = min(MAX_IN_FLIGHT, merged["max_connections"])
        self.timeout, each = _longest(merged), _longest(self._asked)
        if self.timeout is not None and each is not None:
            self.discovery_timeout = len(self._addresses) * each
        else:
            self.timeout = None
        self.client()

    def client(self) -> Any:
        """Make a blocking client."""
        once = {"retry": Retry(NoBackoff(), 0)}
        manager = _Manager(self._addresses, sentinel_kwargs={**self._asked, **once})
        for sentinel in manager.sentinels:
            _check(sentinel)
        return _check(manager.master_for(self._service, **{**once, **self._options}))

    def async_client(self) -> Any:
        """Make a client for the running event loop."""
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


class Cluster(Topology):
    """A cluster, at ``redis+cluster://``. A blocking client connects when it is made."""

    clustered = True

    def __init__(self, url: str, options: Options) -> None:
        self._addresses, path, given = _split(url, 6379)
        self._options = {**_DEFAULTS, "db": path or 0, **options, **given}
        database = self._options.pop("db")
        if str(database) != "0":
            raise ValueError("a cluster has only database 0: leave out the path and db; in a password write / as %2F")
        self._options.pop("retry", None)
        self.max_in_flight = min(MAX_IN_FLIGHT, self._options["max_connections"])
        each = _longest(self._options)
        # After a failover, a call may wait for three servers: the old master, another server, and the new master.
        self.timeout = None if each is None else 3 * each
        self.async_client()

    def client(self) -> Any:
        """Make a blocking client."""
        nodes = [_Node(*address) for address in self._addresses]
        return redis.RedisCluster(startup_nodes=nodes, retry=Retry(NoBackoff(), 0), **self._options)

    def async_client(self) -> Any:
        """Make a client for the running event loop."""
        nodes = [redis.asyncio.cluster.ClusterNode(*address) for address in self._addresses]
        retry = AsyncRetry(NoBackoff(), 0)
        return redis.asyncio.RedisCluster(startup_nodes=nodes, retry=retry, **self._options)

    async def aclose(self, client: Any) -> None:
        """Close the connections to all members."""
        await client.aclose()
        for members in ("nodes_cache", "startup_nodes"):  # after an error, redis-py's own aclose() may skip members
            await client.nodes_manager.aclose(members)


def _split(url: str, port: int) -> tuple[list[tuple[str, int]], str, dict[str, Any]]:
    """Return the addresses, the path and the options in ``url``, which may name several hosts.

    ``port`` is the default port.
    """
    parts = urlsplit(url)
    credentials, at, hosts = parts.netloc.rpartition("@")
    addresses = []
    for host in hosts.split(","):
        address = urlsplit(f"//{host}")
        if not address.hostname:
            raise ValueError("a host is missing: write host or host:port, with commas between several hosts")
        addresses.append((address.hostname, _port(address) or port))
    given = _parse_url(f"redis://{credentials}{at}host?{parts.query}")
    del given["host"]
    if parts.scheme.startswith("rediss"):
        given["ssl"] = True
    return addresses, unquote(parts.path.strip("/")), given


def _port(parts: SplitResult) -> int | None:
    """Return the port, or None. The error does not show the given port, which may be the beginning of a password."""
    try:
        return parts.port
    except ValueError:
        raise ValueError("the port should be a number up to 65535; in a password write / ? # as %2F %3F %23") from None


def _longest(options: Options) -> float | None:
    """Return the longer of the timeouts for connecting and for a reply, in seconds; None if one of them is None."""
    waits = options.get("socket_timeout"), options.get("socket_connect_timeout")
    return None if None in waits else max(float(wait) for wait in waits if wait is not None)


def _in_loop(options: Options) -> dict[str, Any]:
    """Return the options for a client of an event loop. The deadline in :mod:`.aio` replaces redis-py's timeouts.

    In a busy loop, redis-py's timeouts would expire although the answer has arrived and only waits to be read.
    ``socket_connect_timeout`` also limits how long closing a connection takes, so this timeout is kept. It is made four
    times as long as the given timeout, so that the deadline usually comes first.
    """
    connect = options["socket_connect_timeout"]
    timeouts = {"socket_timeout": None, "socket_connect_timeout": connect and 4 * connect}
    return {**options, **timeouts, "retry": AsyncRetry(NoBackoff(), 0)}


def _check(client: Any) -> Any:
    """Make a connection object without connecting, so that a wrong option raises an error now. Return ``client``."""
    pool = client.connection_pool
    pool.connection_class(**pool.connection_kwargs)
    return client
