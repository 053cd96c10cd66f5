"""In event loops: the same decisions, nothing that blocks, and nothing left behind, however a loop ends."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
import uuid
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any

import pytest
import redis
from asgiref.sync import async_to_sync

from ratelimit_core.backends import RedisBackend
from ratelimit_core.backends.redis.servers import MAX_IN_FLIGHT
from ratelimit_core.errors import BackendError, ConfigurationError
from ratelimit_core.policies import ALLOWED, ANSWER, FIXED_WINDOW, LIMITS, POLICIES, SLIDING_WINDOW
from ratelimit_core.testing import ManualClock
from tests.conformance.test_stores import PEEK, ask, use
from tests.servers import PATIENT, eventually, free_port

from .topology import HOST, Server, one_server, seconds

TIMEOUT = 0.25
SLACK = 0.7
"""What a busy machine may add to a wait."""


@pytest.fixture
def url(server: Server) -> str:
    return f"redis://{server.address}"


@pytest.fixture
def backend(url: str, prefix: str) -> Iterator[RedisBackend]:
    backend = RedisBackend(url, key_prefix=prefix, **PATIENT)
    yield backend
    backend.close()


@pytest.fixture
def hasty(url: str, prefix: str) -> Iterator[RedisBackend]:
    """Gives up soon, as by default."""
    backend = RedisBackend(url, key_prefix=prefix)
    yield backend
    backend.close()


def run(work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    result = asyncio.run(work())
    gc.collect()  # what is left behind says so now
    return result


async def fails(asking: Awaitable[Any]) -> BackendError:
    with pytest.raises(BackendError) as failure:
        await asking
    return failure.value


def test_it_decides_what_the_blocking_one_decides(valkey_url: str, prefix: str, clock: ManualClock) -> None:
    backend = RedisBackend(valkey_url, key_prefix=prefix, clock=clock, **PATIENT)
    other = RedisBackend(valkey_url, key_prefix=f"{prefix}-other", clock=clock, **PATIENT)

    async def turns() -> None:
        for i in range(12):
            calls = [use(policy, ("name", str(i % 3)), lease_id=str(i)) for policy in POLICIES.values()]
            assert await backend.aapply(calls) == other.apply(calls)
            calls = [ask(policy, ("name", str(i % 3)), PEEK) for policy in LIMITS]
            assert await backend.aapply(calls) == backend.apply(calls), "they see the same records"
            clock.advance(7)

    run(turns)
    for each in (backend, other):
        each.clear()
        each.close()


def test_it_raises_what_the_blocking_one_raises(backend: RedisBackend, server: Server) -> None:
    call = ask(SLIDING_WINDOW)
    server.client.set(backend._keys_of.record(call.policy, call.key)[0], "a string")

    async def turns() -> None:
        with pytest.raises(ValueError, match="two calls of one batch"):
            await backend.aapply([call, call])
        assert "WRONGTYPE" in str(await fails(backend.aapply([call])))
        assert (await backend.aapply([ask(FIXED_WINDOW)]))[0][ALLOWED]
        server.client.script_flush()
        assert (await backend.aapply([ask(FIXED_WINDOW)]))[0][ALLOWED]

    run(turns)


@pytest.mark.timed
def test_a_hung_server_costs_the_timeout_and_holds_up_nobody(hasty: RedisBackend, server: Server) -> None:
    async def turns() -> None:
        await hasty.aapply([ask(FIXED_WINDOW)])
        server.hang()
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        ticking = asyncio.create_task(tick())
        for _ in range(2):  # on a connection that there is, and on a new one
            ticks = 0
            began = time.perf_counter()
            assert "Timeout" in str(await fails(hasty.aapply([ask(FIXED_WINDOW)])))
            assert TIMEOUT * 0.9 < time.perf_counter() - began < TIMEOUT + SLACK
            assert ticks >= 5
        ticking.cancel()
        server.end_hang()
        assert (await hasty.aapply([ask(FIXED_WINDOW)]))[0][ALLOWED]

    run(turns)


def test_what_arrived_in_time_counts_however_late_the_loop_looks(url: str, prefix: str, server: Server) -> None:
    backend = RedisBackend(url, key_prefix=prefix, socket_timeout=4 * TIMEOUT)

    async def turns() -> None:
        await backend.aapply([ask(FIXED_WINDOW)])
        with server.pausing() as asked:
            asking = asyncio.create_task(backend.aapply([ask(FIXED_WINDOW)]))
            await asyncio.to_thread(eventually, asked)
        assert not asking.done()
        time.sleep(5 * TIMEOUT)  # as a view that blocks
        assert (await asking)[0][ALLOWED]

    run(turns)
    backend.close()


def test_a_crowd_shares_some_connections(backend: RedisBackend, server: Server) -> None:
    async def turns() -> None:
        asked = [backend.aapply([ask(FIXED_WINDOW, (str(i), ""))]) for i in range(500)]
        assert all(verdict[ALLOWED] for [verdict] in await asyncio.gather(*asked))
        assert server.connections() <= MAX_IN_FLIGHT

    run(turns)


@pytest.mark.timed
def test_a_crowd_does_not_wait_for_a_hung_server_one_after_the_other(hasty: RedisBackend, server: Server) -> None:
    async def turns() -> None:
        await hasty.aapply([ask(FIXED_WINDOW)])
        server.hang()
        began = time.perf_counter()
        await asyncio.gather(*[fails(hasty.aapply_unguarded([ask(FIXED_WINDOW)])) for _ in range(MAX_IN_FLIGHT * 10)])
        assert time.perf_counter() - began < TIMEOUT + SLACK
        server.end_hang()

    run(turns)


def test_who_is_cancelled_leaves_no_answer_to_somebody_else(url: str, prefix: str, server: Server) -> None:
    backend = RedisBackend(url, key_prefix=prefix, socket_timeout=30)

    async def turns() -> None:
        await backend.aapply([ask(FIXED_WINDOW, ("a", ""))])
        with server.pausing() as asked:
            asking = [asyncio.create_task(backend.aapply([ask(FIXED_WINDOW, ("a", ""))])) for _ in range(3)]
            await asyncio.to_thread(eventually, lambda: asked() == 3)
            for task in asking:
                task.cancel()
            await asyncio.wait(asking)
            assert all(task.cancelled() for task in asking)
        for i in range(5):
            assert (await backend.aapply([ask(FIXED_WINDOW, (f"b{i}", ""))]))[0][ANSWER] == 2

    run(turns)
    backend.close()


def test_a_demoted_master_is_an_error_and_not_held_on_to(backend: RedisBackend, server: Server) -> None:
    backend.apply([ask(FIXED_WINDOW)])
    server.client.replicaof(HOST, free_port())

    async def turns() -> None:
        assert "read only" in str(await fails(backend.aapply([ask(FIXED_WINDOW)])))
        with pytest.raises(BackendError, match="read only"):
            backend.apply([ask(FIXED_WINDOW)])
        eventually(lambda: server.connections() == 0)
        server.client.replicaof("NO", "ONE")
        await backend.aapply([ask(FIXED_WINDOW)])
        backend.apply([ask(FIXED_WINDOW)])

    run(turns)


def many_short_loops(backend: RedisBackend) -> None:
    async def asked() -> int:
        return (await backend.aapply([ask(FIXED_WINDOW)]))[0][ALLOWED]

    for i in range(20):
        assert async_to_sync(asked)() == (i < 3)
    for _ in range(20):
        assert asyncio.run(asked()) == 0


def test_many_short_loops_leave_no_connection(backend: RedisBackend, server: Server) -> None:
    many_short_loops(backend)
    gc.collect()
    eventually(lambda: server.connections() == 0)
    assert len(backend._loops._sessions) == 0 if backend._loops else False


def test_short_loops_in_many_threads(url: str, prefix: str, server: Server) -> None:
    backend = RedisBackend(url, key_prefix=prefix, **PATIENT)
    wrong: list[BaseException] = []

    async def asked() -> None:
        calls = [ask(FIXED_WINDOW, (uuid.uuid4().hex, ""))]
        assert all(verdict[ALLOWED] for [verdict] in await asyncio.gather(*[backend.aapply(calls) for _ in range(3)]))

    def loops() -> None:
        try:
            for _ in range(10):
                asyncio.run(asked())
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=loops) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    gc.collect()
    eventually(lambda: server.connections() == 0)


def test_a_loop_that_is_just_closed_leaves_nothing(backend: RedisBackend, server: Server) -> None:
    loop = asyncio.new_event_loop()
    for _ in range(2):
        loop.run_until_complete(backend.aapply([ask(FIXED_WINDOW)]))
    assert server.connections() == 1
    loop.close()
    loop.close()
    assert loop.is_closed()
    del loop
    gc.collect()
    eventually(lambda: server.connections() == 0)


@pytest.mark.timed
def test_a_loop_that_is_closed_while_the_server_hangs(backend: RedisBackend, server: Server) -> None:
    loop = asyncio.new_event_loop()
    loop.run_until_complete(backend.aapply([ask(FIXED_WINDOW)]))
    server.hang()
    assert seconds(loop.close) < 1
    server.end_hang()
    del loop
    gc.collect()


def test_a_loop_that_is_forgotten_takes_its_connections_along(backend: RedisBackend, server: Server) -> None:
    loop = asyncio.new_event_loop()
    loop.run_until_complete(backend.aapply([ask(FIXED_WINDOW)]))
    assert server.connections() == 1
    del loop
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):  # Python's own, of the loop
        gc.collect()
    eventually(lambda: server.connections() == 0)


def test_closing_the_backend_leaves_loops_alone(backend: RedisBackend) -> None:
    async def turns() -> None:
        await backend.aapply([ask(FIXED_WINDOW)])
        backend.close()
        await backend.aapply([ask(FIXED_WINDOW)])

    run(turns)
    backend.apply([ask(FIXED_WINDOW)])


def test_a_forked_child_has_loops_and_connections_of_its_own(backend: RedisBackend, server: Server) -> None:
    async def asked() -> int:
        return (await backend.aapply([ask(FIXED_WINDOW, ("forked", ""))]))[0][ANSWER]

    loop = asyncio.new_event_loop()
    assert loop.run_until_complete(asked()) == 2
    child = os.fork()
    if not child:
        code = 1
        try:
            code = 0 if asyncio.run(asked()) == 1 and backend.apply([ask(FIXED_WINDOW)])[0][ALLOWED] else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert loop.run_until_complete(asked()) == 0
    loop.close()


def test_a_client_of_ones_own_is_used_in_a_thread(url: str, prefix: str) -> None:
    with redis.Redis.from_url(url) as client:
        backend = RedisBackend(client=client, key_prefix=prefix)
        verdicts = run(lambda: backend.aapply([ask(FIXED_WINDOW)]))
        assert verdicts[0][ALLOWED]


def test_an_option_that_event_loops_do_not_know_is_no_failure_of_the_store(url: str, prefix: str) -> None:
    backend = RedisBackend(url.replace("redis", "rediss"), key_prefix=prefix, ssl_validate_ocsp=False)

    async def turns() -> None:
        with pytest.raises(ConfigurationError, match="ssl_validate_ocsp"):
            await backend.aapply([ask(FIXED_WINDOW)])

    run(turns)
    backend.close()


def test_connections_that_died_are_not_used(prefix: str) -> None:
    with one_server() as server:
        backend = RedisBackend(f"redis://{server.address}", key_prefix=prefix, **PATIENT)

        async def turns() -> None:
            await backend.aapply([ask(FIXED_WINDOW)])
            backend.apply([ask(FIXED_WINDOW, ("", ""))])
            server.client.client_kill_filter(_type="normal", skipme=True)
            await asyncio.to_thread(eventually, lambda: server.connections() == 0)  # and the loop hears of it
            assert backend.apply([ask(FIXED_WINDOW)])[0][ALLOWED]
            assert (await backend.aapply([ask(FIXED_WINDOW)]))[0][ALLOWED], "a dead connection is not used"
            server.kill()
            await fails(backend.aapply([ask(FIXED_WINDOW)]))
            await fails(backend.aapply([ask(FIXED_WINDOW)]))

        run(turns)
        backend.close()
