"""Behind a Sentinel: a failover is a bounded time of errors, in a process that goes on."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from ratelimit_core.backends import RedisBackend
from ratelimit_core.errors import BackendError
from ratelimit_core.policies import ALLOWED, ANSWER, FIXED_WINDOW
from tests.conformance.test_stores import ask
from tests.servers import eventually, free_port

from .topology import HOST, SERVICE, Watched, refused, watched

SLACK = 0.7
CALLS = [ask(FIXED_WINDOW)]
PATIENT: dict[str, Any] = {
    "socket_timeout": 20,
    "socket_connect_timeout": 20,
    "sentinel_kwargs": {"socket_timeout": 20, "socket_connect_timeout": 20},
}
"""For who wants an answer, however busy the machine."""


@pytest.fixture
def setup() -> Iterator[Watched]:
    """One that fails over."""
    with watched(down_after=1000) as setup:
        yield setup


@pytest.fixture
def calm() -> Iterator[Watched]:
    """One that does not."""
    with watched() as setup:
        yield setup


@pytest.fixture
def backend(setup: Watched, prefix: str) -> Iterator[RedisBackend]:
    backend = RedisBackend(setup.url, key_prefix=prefix)
    yield backend
    backend.close()


def asked(backend: RedisBackend, loop: asyncio.AbstractEventLoop) -> None:
    """Once from a thread and once from an event loop."""
    backend.apply_unguarded(CALLS)
    loop.run_until_complete(backend.aapply_unguarded(CALLS))


def longest_wait_until_well(backend: RedisBackend, loop: asyncio.AbstractEventLoop, within: float = 20) -> float:
    """Ask until there are answers; how long the slowest error took."""
    slowest, deadline = 0.0, time.monotonic() + within
    while True:
        began = time.monotonic()
        try:
            asked(backend, loop)
            return slowest
        except BackendError:
            slowest = max(slowest, time.monotonic() - began)
            assert time.monotonic() < deadline


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.mark.timed
def test_the_new_master_is_asked_when_the_old_one_was_killed(
    setup: Watched, backend: RedisBackend, loop: asyncio.AbstractEventLoop
) -> None:
    longest_wait_until_well(backend, loop)
    setup.master.kill()
    with pytest.raises(BackendError):
        backend.apply_unguarded(CALLS)
    with pytest.raises(BackendError):
        loop.run_until_complete(backend.aapply_unguarded(CALLS))
    assert longest_wait_until_well(backend, loop) < 0.5 + SLACK
    assert setup.replica.client.role()[0] == b"master"
    assert setup.replica.client.exists(backend._keys_of.record(FIXED_WINDOW, ("name", ""))[0])


@pytest.mark.timed
def test_the_new_master_is_asked_when_the_old_one_hangs(
    setup: Watched, backend: RedisBackend, loop: asyncio.AbstractEventLoop
) -> None:
    longest_wait_until_well(backend, loop)
    setup.master.hang()
    assert refused(lambda: backend.apply_unguarded(CALLS)) < 0.25 + SLACK
    assert longest_wait_until_well(backend, loop) < 0.7 + SLACK


def test_a_master_that_was_demoted_is_not_held_on_to(
    setup: Watched, backend: RedisBackend, loop: asyncio.AbstractEventLoop
) -> None:
    longest_wait_until_well(backend, loop)

    def begun() -> bool:
        try:
            return bool(setup.sentinel.client.execute_command("SENTINEL", "FAILOVER", SERVICE))
        except redis.ResponseError:  # it does not know the replica well enough yet
            return False

    def demoted() -> bool:
        try:  # sooner than the Sentinel does it
            return bool(setup.replica.client.role()[0] == b"master" and setup.master.client.replicaof(HOST, port))
        except redis.ConnectionError:  # whoever changes its part lets go of its clients
            return False

    port = setup.replica.port
    eventually(begun)
    eventually(demoted)
    before = setup.replica.client.dbsize()

    def well() -> bool:
        """The first to ask gets an error, unless the Sentinel was quicker."""
        try:
            backend.apply_unguarded([ask(FIXED_WINDOW, ("another", ""))])
            loop.run_until_complete(backend.aapply_unguarded([ask(FIXED_WINDOW, ("a third", ""))]))
        except BackendError:
            return False
        return True

    eventually(well)
    assert setup.replica.client.dbsize() == before + 2


@pytest.mark.timed
def test_without_sentinels_there_is_an_error_and_soon(
    calm: Watched, prefix: str, loop: asyncio.AbstractEventLoop
) -> None:
    backend = RedisBackend(calm.url, key_prefix=prefix)
    asked(backend, loop)
    calm.sentinel.hang()
    asked(backend, loop)  # who has connections needs no Sentinel
    backend.close()
    assert refused(lambda: backend.apply_unguarded(CALLS)) < 0.35 + SLACK
    other = RedisBackend(calm.url, key_prefix=prefix)
    assert refused(lambda: loop.run_until_complete(other.aapply_unguarded(CALLS))) < 0.35 + SLACK
    calm.sentinel.end_hang()
    asked(backend, loop)
    asked(other, loop)
    for each in (backend, other):
        each.close()


def test_a_service_that_no_sentinel_knows_is_an_error(calm: Watched) -> None:
    backend = RedisBackend(f"redis+sentinel://127.0.0.1:{free_port()},{calm.sentinel.address}/other")
    with pytest.raises(BackendError, match="other"):
        backend.apply(CALLS)
    backend.close()


def test_passwords_of_the_servers_and_of_the_sentinels(prefix: str) -> None:
    with watched(password="secret", of_sentinel="of the sentinel") as setup:
        url = setup.url.replace("redis+sentinel://", "redis+sentinel://:secret@")
        backend = RedisBackend(url, key_prefix=prefix, sentinel_kwargs={"password": "of the sentinel"})
        assert backend.apply(CALLS)[0][ALLOWED]
        assert asyncio.run(backend.aapply(CALLS))[0][ANSWER] == 1
        backend.close()
        without = RedisBackend(url, key_prefix=prefix)
        with pytest.raises(BackendError, match="Authentication"):
            without.apply(CALLS)
        without.close()


def test_threads_that_begin_together_all_find_the_master(calm: Watched, prefix: str) -> None:
    """The first Sentinel of the URL is down; whoever finds the second moves it to the front."""
    for _ in range(10):
        backend = RedisBackend(calm.url, key_prefix=prefix, **PATIENT)
        together = threading.Barrier(16)

        def begin(_: int, backend: RedisBackend = backend, together: threading.Barrier = together) -> None:
            together.wait()
            backend.apply_unguarded(CALLS)

        with ThreadPoolExecutor(16) as threads:
            list(threads.map(begin, range(16)))
        backend.close()


def test_tasks_that_begin_together_all_find_the_master(
    calm: Watched, prefix: str, loop: asyncio.AbstractEventLoop
) -> None:
    async def begin() -> None:
        backend = RedisBackend(calm.url, key_prefix=prefix, **PATIENT)
        await asyncio.gather(*(backend.aapply_unguarded(CALLS) for _ in range(16)))
        backend.close()

    for _ in range(10):
        loop.run_until_complete(begin())
