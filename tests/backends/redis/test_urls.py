"""What a URL may say, and what is said to a wrong one. Nothing is connected."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ratelimit_core.backends import RedisBackend
from ratelimit_core.errors import BackendError, ConfigurationError
from tests.servers import free_port

from .topology import refused


def options(backend: RedisBackend) -> dict[str, Any]:
    """What connections are made with."""
    given: dict[str, Any] = backend._session.client.connection_pool.connection_kwargs
    return given


@pytest.mark.parametrize(
    "url",
    [
        "redis://",
        "redis://user:pass@host:1/2?socket_timeout=3",
        "rediss://host?ssl_cert_reqs=none",
        "unix:///run/redis.sock?db=2",
        "redis+sentinel://host/service",
        "redis+sentinel://user:pass@host:1,[::1]:2/service?db=3&max_connections=5",
        "rediss+sentinel://:pass@host/service?ssl_cert_reqs=none",
        "redis+cluster://host",
        "redis+cluster://user:pass@host:1,[::1]:2/0?socket_timeout=3",
        "rediss+cluster://:pass@host:1,host2?ssl_cert_reqs=none",
    ],
)
def test_a_url_that_makes_sense_makes_clients_for_threads_and_for_event_loops(url: str) -> None:
    backend = RedisBackend(url)

    async def made() -> None:
        assert backend._loops is not None
        assert backend._loops.current() is backend._loops.current()

    asyncio.run(made())
    backend.close()


def test_what_a_url_says_arrives() -> None:
    single = options(RedisBackend("redis://user:p%40ss@host:1/2?socket_timeout=3"))
    assert (single["username"], single["password"], single["db"], single["socket_timeout"]) == ("user", "p@ss", 2, 3)
    assert single["socket_connect_timeout"] == 0.25
    of_master = RedisBackend("rediss+sentinel://:p%40ss@host/a%20service?db=3", sentinel_kwargs={"password": "other"})
    pool = of_master._session.client.connection_pool
    assert pool.service_name == "a service"
    assert (options(of_master)["password"], options(of_master)["db"]) == ("p@ss", 3)
    assert "SSL" in pool.connection_class.__name__
    of_sentinel = pool.sentinel_manager.sentinels[0].connection_pool
    assert "SSL" in of_sentinel.connection_class.__name__
    assert of_sentinel.connection_kwargs["password"] == "other"
    assert of_sentinel.connection_kwargs["port"] == 26379
    assert of_sentinel.connection_kwargs["socket_timeout"] == 0.1


def test_options_of_the_setting_may_ask_for_tls() -> None:
    pool = RedisBackend("redis://host", ssl=True)._session.client.connection_pool
    assert "SSL" in pool.connection_class.__name__


@pytest.mark.parametrize(
    ("url", "given", "says"),
    [
        ("redis://host:port", {}, r"write a URL like redis://"),
        ("redis://host?socket_timeout=soon", {}, r"socket_timeout.*write a URL like"),
        ("redis://host", {"sokcet_timeout": 1}, r"sokcet_timeout"),
        ("redis+sentinel://host", {}, r"name of the service.*/SERVICE"),
        ("redis+sentinel:///service", {}, r"host is missing.*redis\+sentinel://"),
        ("redis+sentinel://host,/service", {}, r"host is missing"),
        ("redis+sentinel://host:x/service", {}, r"write a URL like redis\+sentinel://"),
        ("redis+sentinel://host/service?sokcet_timeout=1", {}, r"sokcet_timeout"),
        ("redis+sentinel://host/service", {"sentinel_kwargs": {"sokcet_timeout": 1}}, r"sokcet_timeout"),
        ("redis+cluster://", {}, r"host is missing"),
        ("redis+cluster://host/1", {}, r"a cluster has only database 0: leave out the path and db"),
        ("redis+cluster://host?db=1", {}, r"a cluster has only database 0: leave out the path and db"),
        ("redis+cluster://host", {"db": 1}, r"a cluster has only database 0: leave out the path and db"),
        ("redis+cluster://host", {"sokcet_timeout": 1}, r"sokcet_timeout"),
        ("mongodb://host", {}, r"write a URL like one of redis://.*redis\+cluster://"),
    ],
)
def test_a_wrong_url_or_option_is_refused_where_it_is_written(url: str, given: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        RedisBackend(url, **given)


@pytest.mark.parametrize(
    "url",
    [
        "redis+cluster://:secret@host/1",
        "redis+cluster://user:12/secret@host",
        "redis+sentinel://user:12/secret@host/service",
        "redis://user:12/secret@host/0",
        "rediss://user:12/secret@host",
        "redis://:pa#secret@host/0",
    ],
)
def test_a_password_is_not_in_what_is_said_of_a_wrong_url(url: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        RedisBackend(url)
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize("form", ["redis://{}", "redis+sentinel://{}/service", "redis+cluster://{}"])
def test_where_nobody_listens_is_found_out_by_the_first_call_and_soon(form: str) -> None:
    backend = RedisBackend(form.format(f"127.0.0.1:{free_port()}"))

    async def ask() -> None:
        with pytest.raises(BackendError):
            await backend.aapply([])

    assert refused(lambda: backend.apply([])) < 1
    assert refused(lambda: backend.entries(("name", ""))) < 1
    asyncio.run(ask())
    backend.close()
