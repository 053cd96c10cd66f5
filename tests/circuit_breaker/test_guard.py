"""What the guard does between the caller and the store: costs, forms of use, threads, a store in trouble."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
import time
import types
import uuid
from collections.abc import Callable, Coroutine, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import redis

from ratelimit_core import CircuitBreaker, CircuitBreakerError
from ratelimit_core.backends import Backend, MemoryBackend, RedisBackend
from ratelimit_core.circuit_breaker.acquire import AcquireQuestion
from ratelimit_core.circuit_breaker.breaker import cache_of
from ratelimit_core.circuit_breaker.operator import read_record
from ratelimit_core.circuit_breaker.permit import Permit
from ratelimit_core.events import Event, StateChanged, StoreAvailabilityChanged
from ratelimit_core.policies import Verdict
from ratelimit_core.protocol.call import Call
from ratelimit_core.store import configured
from ratelimit_core.store.drive import drive
from ratelimit_core.store.fallback import Store
from ratelimit_core.testing import ManualClock
from tests import servers
from tests.circuit_breaker.fleet import Fleet, ask, broken, fail, probe, refused, succeed
from tests.servers import PATIENT, eventually

# What a call costs, counted by the server


@pytest.fixture
def server(valkey_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey_url) as client:
        yield client


@pytest.fixture
def counted(server: redis.Redis, valkey_url: str, lasting_keys: None, clock: ManualClock) -> Iterator[Fleet]:
    backend = RedisBackend(valkey_url, key_prefix="counted", clock=clock, **servers.PATIENT)
    fleet = Fleet(backend, clock)
    succeed(fleet.process("warm-up"))  # the server knows the script from here on
    yield fleet
    backend.clear()
    backend.close()


def commands(server: redis.Redis) -> int:
    """Commands that clients sent; what a script calls is counted beside it, and nobody else sends EVALSHA."""
    stats: Any = server.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("eval", "evalsha", "evalsha_ro"))


def cost(server: redis.Redis, function: Callable[[], object]) -> int:
    before = commands(server)
    function()
    return commands(server) - before


def test_a_closed_breaker_asks_once_and_then_not_while_that_is_fresh(counted: Fleet, server: redis.Redis) -> None:
    breaker = counted.process(cache_ttl=1)
    assert cost(server, lambda: succeed(breaker, 100)) == 1
    counted.clock.advance(0.79)  # the ttl is jittered, down to 80 %
    assert cost(server, lambda: succeed(breaker, 100)) == 0
    counted.clock.advance(0.22)
    assert cost(server, lambda: succeed(breaker, 100)) == 1


def test_a_closed_breaker_costs_at_most_five_commands_a_second(counted: Fleet, server: redis.Redis) -> None:
    breaker = counted.process()

    def ten_seconds() -> None:
        for _ in range(5000):
            succeed(breaker)
            counted.clock.advance(0.002)

    assert 40 <= cost(server, ten_seconds) <= 50


def test_a_failure_costs_one_command_and_so_does_the_success_that_ends_them(
    counted: Fleet, server: redis.Redis
) -> None:
    breaker = counted.process(failure_threshold=10)
    succeed(breaker)
    for _ in range(3):
        assert cost(server, lambda: fail(breaker)) == 1
    assert cost(server, lambda: succeed(breaker)) == 1
    assert cost(server, lambda: succeed(breaker, 100)) == 0


def test_an_open_breaker_refuses_without_asking_for_a_second(counted: Fleet, server: redis.Redis) -> None:
    breaker = counted.process(failure_threshold=1)
    fail(breaker)

    def ten_seconds() -> None:
        for _ in range(1000):
            assert ask(breaker) is None
            counted.clock.advance(0.01)

    assert cost(server, ten_seconds) <= 10


def test_a_probe_costs_two_commands(counted: Fleet, server: redis.Redis) -> None:
    breaker = counted.process(failure_threshold=1)
    fail(breaker)
    counted.clock.advance(60)
    assert cost(server, lambda: succeed(breaker)) == 2


def test_cache_ttl_0_asks_every_time(counted: Fleet, server: redis.Redis) -> None:
    breaker = counted.process(cache_ttl=0)
    assert cost(server, lambda: succeed(breaker, 10)) == 10


def test_a_refresh_with_nothing_to_tell_writes_nothing(counted: Fleet, server: redis.Redis) -> None:
    breaker = counted.process()
    succeed(breaker)

    def writes() -> int:
        stats: Any = server.info("commandstats")
        return int(stats["cmdstat_set"]["calls"]) if "cmdstat_set" in stats else 0

    before = writes()
    for _ in range(20):
        counted.clock.advance(1)
        succeed(breaker)
    assert writes() == before


# Forms of use


def elsewhere(function: Callable[[], object]) -> None:
    """Call it on another thread."""
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


def test_is_allowed_and_its_report_are_one_call(fleet: Fleet) -> None:
    breaker = fleet.process(failure_threshold=2)
    for _ in range(2):
        assert breaker.is_allowed()
        breaker.report_failure()
    assert not breaker.is_allowed()
    fleet.clock.advance(60)
    assert breaker.is_allowed()
    breaker.report_success()
    assert breaker.state == "closed"


def test_a_check_that_nobody_reports_on_does_not_hide_later_failures(fleet: Fleet) -> None:
    breaker = fleet.process(failure_threshold=1)
    for _ in range(1000):
        assert breaker.is_allowed()
    assert breaker.is_allowed()
    breaker.report_failure()
    fleet.clock.advance(60)
    assert breaker.is_allowed()
    breaker.report_success()
    assert breaker.is_allowed()
    breaker.report_failure()
    assert breaker.state == "open", "it is the newest check that was reported on"


def test_reports_of_two_threads_settle_each_its_own_call(fleet: Fleet) -> None:
    breaker = fleet.process(failure_threshold=1)
    allowed, opened = threading.Event(), threading.Event()

    def slow() -> None:
        breaker.is_allowed()
        allowed.set()
        opened.wait(30)
        breaker.report_failure()  # began before the breaker opened and closed again

    thread = threading.Thread(target=slow)
    thread.start()
    allowed.wait(30)
    breaker.is_allowed()
    breaker.report_failure()
    fleet.clock.advance(60)
    succeed(breaker)
    breaker.is_allowed()
    opened.set()
    thread.join()
    assert breaker.state == "closed"
    breaker.report_success()


def test_a_report_that_was_not_asked_for_counts(fleet: Fleet) -> None:
    breaker = fleet.process(failure_threshold=2)
    breaker.report_failure()
    breaker.report_failure()
    assert breaker.state == "open"


def test_a_report_from_elsewhere_closes_what_a_probe_tested(fleet: Fleet) -> None:
    breaker = fleet.process(failure_threshold=1)
    fail(breaker)
    fleet.clock.advance(60)
    assert breaker.is_allowed()
    elsewhere(breaker.report_success)
    assert breaker.state == "closed"


def test_a_report_from_elsewhere_closes_what_only_slow_calls_opened(fleet: Fleet) -> None:
    breaker = fleet.process(slow_call_duration=2, slow_call_rate=0.5, minimum_calls=1)
    breaker.call(lambda: fleet.clock.advance(2))
    fleet.clock.advance(60)
    assert breaker.is_allowed()
    elsewhere(breaker.report_success)
    assert breaker.state == "closed"


def test_a_refused_call_runs_the_fallback_with_its_arguments(fleet: Fleet) -> None:
    breaker = fleet.process(failure_threshold=1, fallback_function=lambda order: f"cached {order}")
    fail(breaker)
    assert breaker.call(lambda order: f"fresh {order}", 7) == "cached 7"
    assert breaker.call_with_fallback(lambda order: f"fresh {order}", lambda order: f"other {order}", 7) == "other 7"


def test_a_fallback_does_not_hide_what_the_function_raises(fleet: Fleet) -> None:
    inner = fleet.process("inner", failure_threshold=1)
    fail(inner)
    outer = fleet.process("outer", fallback_function=lambda: "cached")
    with pytest.raises(CircuitBreakerError, match="inner"):
        outer.call(inner.call, lambda: "fresh")


def test_breakers_nest(fleet: Fleet) -> None:
    inner, outer = fleet.process("inner", failure_threshold=1), fleet.process("outer", failure_threshold=1)
    with outer:
        with suppress(ConnectionError), inner:
            broken()
        assert inner.state == "open"
    assert outer.state == "closed"


def test_an_async_function_is_judged_when_it_was_awaited(fleet: Fleet) -> None:
    breaker = fleet.process(failure_threshold=1, fallback_function=lambda: "cached")

    @breaker
    async def fetch() -> str:
        raise ConnectionError

    async def main() -> None:
        call = fetch()
        assert breaker.get_status()["stats"] == {"successes": 0, "failures": 0, "rejections": 0, "shadow_rejections": 0}
        with pytest.raises(ConnectionError):
            await call
        assert await fetch() == "cached"

    asyncio.run(main())
    assert breaker.state == "open"


def test_what_happens_in_an_event_loop_is_told_and_kept_too(fleet: Fleet, happened: list[Event]) -> None:
    breaker = fleet.process(failure_threshold=1)

    @breaker
    async def fetch() -> None:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        asyncio.run(fetch())
    assert [(event.old, event.new) for event in happened if isinstance(event, StateChanged)] == [("closed", "open")]
    assert [entry["event"] for entry in breaker.history()] == ["opened"]


class Gate(MemoryBackend):
    """A store whose next answer waits to be let out."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock=clock)
        self.asked = threading.Event()
        self.open = threading.Event()
        self.open.set()

    def _apply(self, calls: Sequence[Call]) -> list[Verdict]:
        verdicts = super()._apply(calls)
        self.asked.set()
        assert self.open.wait(30)
        return verdicts

    async def _aapply(self, calls: Sequence[Call]) -> list[Verdict]:
        return await asyncio.to_thread(self._apply, calls)

    @contextmanager
    def shut(self) -> Iterator[None]:
        self.asked.clear()
        self.open.clear()
        yield
        self.open.set()


@pytest.fixture
def gate(clock: ManualClock) -> Gate:
    return Gate(clock)


def half_open(fleet: Fleet) -> CircuitBreaker:
    breaker = fleet.process(failure_threshold=1)
    fail(breaker)
    fleet.clock.advance(60)
    return breaker


async def until(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, 30)


def test_a_caller_cancelled_while_it_asks_gives_its_probe_back(gate: Gate, clock: ManualClock) -> None:
    breaker = half_open(Fleet(gate, clock))

    @breaker
    async def fetch() -> None:
        raise AssertionError("it was cancelled before")

    async def main() -> None:
        with gate.shut():
            caller = asyncio.create_task(fetch())
            await until(gate.asked)
            caller.cancel()
            with pytest.raises(asyncio.CancelledError):
                await caller
        while breaker.get_status()["half_open_calls"]:
            await asyncio.sleep(0)

    asyncio.run(main())


def test_a_caller_cancelled_while_it_settles_has_settled(gate: Gate, clock: ManualClock) -> None:
    breaker = half_open(Fleet(gate, clock))
    running = asyncio.Event()

    @breaker
    async def fetch() -> None:
        gate.asked.clear()
        gate.open.clear()
        running.set()

    async def main() -> None:
        caller = asyncio.create_task(fetch())
        await running.wait()
        await until(gate.asked)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        gate.open.set()

    asyncio.run(main())
    assert breaker.state == "closed"


def test_a_caller_cancelled_before_it_could_settle_settles_all_the_same(gate: Gate, clock: ManualClock) -> None:
    """Its report waits for a thread, of which there is one, and that one is busy."""
    breaker = half_open(Fleet(gate, clock))
    busy, free = threading.Event(), threading.Event()

    def occupy() -> None:
        busy.set()
        free.wait(30)

    @breaker
    async def fetch() -> None:
        asyncio.get_running_loop().run_in_executor(None, occupy)
        while not busy.is_set():
            await asyncio.sleep(0)

    async def main() -> None:
        threads = ThreadPoolExecutor(1)
        asyncio.get_running_loop().set_default_executor(threads)
        caller = asyncio.create_task(fetch())
        while not (busy.is_set() and threads._work_queue.qsize()):
            await asyncio.sleep(0)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert breaker.get_status()["half_open_calls"] == 1, "not yet"
        free.set()
        await asyncio.to_thread(lambda: None)

    asyncio.run(main())
    assert breaker.state == "closed"


def test_a_coroutine_that_is_closed_gives_its_probe_back(fleet: Fleet) -> None:
    breaker = half_open(fleet)

    @types.coroutine
    def forever() -> Generator[None]:
        yield

    async def wait() -> None:
        await forever()

    def fetch() -> Coroutine[Any, Any, None]:  # nobody can tell that this is to be awaited, so it is asked at once
        return wait()

    coroutine = breaker.call(fetch)
    coroutine.send(None)
    assert breaker.get_status()["half_open_calls"] == 1
    coroutine.close()
    assert breaker.get_status()["half_open_calls"] == 0


def test_the_event_loop_is_never_blocked_by_a_round_trip(gate: Gate, clock: ManualClock) -> None:
    fleet = Fleet(gate, clock)
    breaker = fleet.process(failure_threshold=10)
    fail(breaker)

    @breaker
    async def fetch() -> None:
        gate.asked.clear()
        gate.open.clear()

    async def main() -> None:
        caller = asyncio.create_task(fetch())  # ends the failures, which is told at once
        await until(gate.asked)
        assert not caller.done()
        gate.open.set()
        await caller

    asyncio.run(main())


# Threads that share what one process knows


def test_successes_that_were_carried_to_the_store_in_vain_are_carried_again(fleet: Fleet) -> None:
    breaker = fleet.process(failure_threshold=100, failure_rate=0.5, minimum_calls=2)
    succeed(breaker, 9)
    fleet.clock.advance(1)
    cache = cache_of(breaker)

    def denied_by_a_limit() -> None:
        question = AcquireQuestion(cache, "denied")
        assert drive(question.on_verdicts([read_record(cache)], allowed=False), cache.store) is None

    elsewhere(denied_by_a_limit)
    fail(breaker)
    fail(breaker)
    assert breaker.state == "closed", "2 of 11"


@pytest.mark.every_store
def test_threads_agree_with_the_store_on_what_was_counted(store: Backend, clock: ManualClock) -> None:
    fleet = Fleet(store, clock)
    breaker = fleet.process(failure_threshold=1_000_000, failure_rate=1, minimum_calls=1_000_000, cache_ttl=0.01)
    fail(breaker)
    clock.advance(1)  # well into the window: threads read the clock in no order
    together = threading.Barrier(8)

    def hammer(seed: int) -> None:
        chance = random.Random(seed)
        together.wait()
        for _ in range(200):
            permit = breaker.acquire()
            if chance.random() < 0.2:
                permit.failure()
            else:
                permit.success()
            clock.advance(0.001)

    threads = [threading.Thread(target=hammer, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    cache = cache_of(breaker)
    record, stats = read_record(cache), breaker.stats
    assert stats["successes"] + stats["failures"] == 1601
    assert record.failed == stats["failures"], "every failure, once"
    answered = record.calls - record.failed + cache.pending_successes
    assert answered == stats["successes"], "every success, once"


def test_a_verdict_that_comes_late_gives_no_permit_of_a_later_generation(fleet: Fleet) -> None:
    breaker = fleet.process(failure_threshold=1)
    cache = cache_of(breaker)
    question = AcquireQuestion(cache, "slow")
    late = cache.store.apply(question.calls)
    fail(breaker)
    fleet.clock.advance(60)
    trying = probe(breaker)
    stale = drive(question.on_verdicts(late, allowed=True), cache.store)
    assert stale is not None
    assert stale.generation < trying.generation
    stale.failure()
    assert breaker.state == "half_open"


# A store in trouble


class Outage:
    """A real server that can hang, on the test's clock."""

    def __init__(self, url: str, clock: ManualClock, timeout: float) -> None:
        self.url = url
        self.clock = clock
        with redis.Redis.from_url(url) as client:
            info: Any = client.info("server")
        self.pid: int = info["process_id"]
        self.backend = RedisBackend(url, clock=clock, socket_timeout=timeout)
        self.store = Store(self.backend, retry_after=5, clock=clock)
        self.store.local = MemoryBackend(clock=clock)
        configured._stores[self.backend] = self.store
        self.fleet = Fleet(self.backend, clock)

    def begin(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def end(self) -> None:
        os.kill(self.pid, signal.SIGCONT)


@contextmanager
def outages(clock: ManualClock, timeout: float = 1) -> Iterator[Outage]:
    with servers.valkey() as url:
        outage = Outage(url, clock, timeout)
        try:
            yield outage
        finally:
            outage.end()
            outage.backend.close()


@pytest.fixture
def outage(clock: ManualClock) -> Iterator[Outage]:
    with outages(clock) as outage:
        yield outage


def seconds(function: Callable[[], object]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def typical(function: Callable[[], object], times: int = 200) -> float:
    return sorted(seconds(function) for _ in range(times))[times // 2]


SLACK = 0.7
"""What a busy machine may add to a wait of 0.25 s: far from the 15 s of a client that waits for its own reasons."""


@pytest.mark.timed
def test_a_hung_store_costs_one_short_wait_and_then_nothing(clock: ManualClock) -> None:
    with outages(clock, timeout=0.25) as outage:
        breaker = outage.fleet.process(cache_ttl=0)
        succeed(breaker)
        outage.begin()
        assert 0.2 < seconds(lambda: succeed(breaker)) < 0.3 + SLACK
        assert typical(lambda: succeed(breaker)) < 0.001
        clock.advance(5)
        assert 0.2 < seconds(lambda: succeed(breaker)) < 0.3 + SLACK, "one more for each attempt to reach it"
        assert typical(lambda: succeed(breaker)) < 0.001


@pytest.mark.timed
def test_an_unreachable_store_costs_nothing(clock: ManualClock) -> None:
    backend = RedisBackend(f"redis://127.0.0.1:{servers.free_port()}/0", clock=clock)
    breaker = Fleet(backend, clock).process(cache_ttl=0)
    assert seconds(lambda: succeed(breaker)) < 0.3 + SLACK
    assert typical(lambda: succeed(breaker)) < 0.001


def test_a_local_trip_happens_while_the_store_is_away(outage: Outage, happened: list[Event]) -> None:
    breaker = outage.fleet.process(failure_threshold=3)
    outage.begin()
    fail(breaker, 3)
    assert refused(breaker).retry_after == 60
    assert breaker.state == "open"
    assert [event for event in happened if isinstance(event, StateChanged)] == [
        StateChanged("upstream", "closed", "open", failure_count=3, retry_after=60, local=True)
    ]
    outage.clock.advance(60)
    succeed(breaker)
    assert breaker.state == "closed"


def test_a_failure_that_finds_the_store_away_counts_here(outage: Outage) -> None:
    breaker = outage.fleet.process(failure_threshold=3)
    permits = [breaker.acquire() for _ in range(3)]
    outage.begin()
    for permit in permits:
        permit.failure()
    assert ask(breaker) is None


def test_a_known_opening_is_honoured_to_its_deadline(outage: Outage) -> None:
    breaker = outage.fleet.process(failure_threshold=1)
    before = [breaker.acquire() for _ in range(2)]
    fail(breaker)
    outage.begin()
    outage.clock.advance(2)
    assert refused(breaker).retry_after == 58
    assert before.pop().failure(ConnectionError()) == 58, "a call from before the opening says nothing new"
    before.pop().success()
    outage.clock.advance(57.9)
    assert refused(breaker).retry_after == 0.1
    assert breaker.state == "open"
    outage.clock.advance(0.1)
    succeed(breaker)


def test_the_store_wins_when_it_is_back(
    outage: Outage, happened: list[Event], caplog: pytest.LogCaptureFixture
) -> None:
    breaker = outage.fleet.process(failure_threshold=2)
    succeed(breaker)
    outage.begin()
    local = [breaker.acquire()]
    outage.clock.advance(1)
    local += [breaker.acquire() for _ in range(5)]
    fail(breaker, 2)
    assert ask(breaker) is None
    outage.end()
    outage.clock.advance(5)
    succeed(breaker)
    for permit in local[1:]:
        permit.failure()
    assert breaker.get_status()["failure_count"] == 0, "what was decided without the store is not told"
    succeed(breaker)
    assert [event.available for event in happened if isinstance(event, StoreAvailabilityChanged)] == [False, True]
    assert "the shared store is available again" in caplog.text


def test_each_outage_begins_with_a_clean_slate(outage: Outage) -> None:
    breaker = outage.fleet.process(failure_threshold=2, cache_ttl=0)
    for _ in range(3):
        outage.begin()
        fail(breaker)
        assert breaker.get_status()["failure_count"] == 1
        outage.end()
        outage.clock.advance(5)
        succeed(breaker)
        outage.clock.advance(5)  # it was back for long enough to call it that


@pytest.mark.parametrize("on_store_failure", ["allow", "deny"])
def test_what_to_do_while_the_store_is_away_can_be_chosen(outage: Outage, on_store_failure: str) -> None:
    breaker = outage.fleet.process(on_store_failure=on_store_failure, failure_threshold=1)
    late: Permit | None = None
    outage.begin()
    outage.clock.advance(1)
    if on_store_failure == "allow":
        fail(breaker, 5)
        succeed(breaker)
        late = breaker.acquire()
    else:
        assert refused(breaker).retry_after == 5
        outage.clock.advance(2)
        assert refused(breaker).retry_after == 3
    outage.end()
    outage.clock.advance(5)
    succeed(breaker)
    if late is not None:
        late.failure()
        assert breaker.state == "closed", "what was decided without the store is not told"


def test_events_of_an_outage_come_once_each_way_from_many_threads(outage: Outage, happened: list[Event]) -> None:
    breaker = outage.fleet.process(cache_ttl=0)
    succeed(breaker)

    def everybody() -> None:
        threads = [threading.Thread(target=succeed, args=(breaker,)) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    outage.begin()
    everybody()
    outage.end()
    outage.clock.advance(5)
    everybody()
    succeed(breaker)
    assert [event.available for event in happened if isinstance(event, StoreAvailabilityChanged)] == [False, True]


def stuck(breaker: CircuitBreaker) -> threading.Thread:
    """A thread that waits for a hung store; returns when it does."""
    asking = threading.Event()
    backend = cache_of(breaker).store.backend
    apply = backend._apply

    def announced(calls: Sequence[Call]) -> list[Verdict]:
        asking.set()
        return apply(calls)

    backend._apply = announced  # type: ignore[method-assign] # it only tells when it is called
    thread = threading.Thread(target=succeed, args=(breaker,))
    thread.start()
    assert asking.wait(30)
    return thread


def test_others_go_on_while_one_thread_finds_out_that_the_store_hangs(clock: ManualClock) -> None:
    with outages(clock, timeout=20) as outage:
        breaker = outage.fleet.process()
        succeed(breaker)
        outage.begin()
        clock.now = cache_of(breaker).cached.valid_until - 1  # in the last moment of what is known
        thread = stuck(breaker)
        succeed(breaker, 100)
        assert thread.is_alive()
        outage.end()
        thread.join()


def test_others_go_on_while_one_thread_tries_to_reach_the_store(clock: ManualClock) -> None:
    with outages(clock) as outage:
        breaker = outage.fleet.process(cache_ttl=0)
        outage.begin()
        succeed(breaker)
        outage.backend = RedisBackend(outage.url, clock=clock, socket_timeout=20)
        outage.store.backend = outage.backend
        clock.advance(5)
        thread = stuck(breaker)
        succeed(breaker, 100)
        assert thread.is_alive()
        outage.end()
        thread.join()
        assert outage.store.available


def test_to_those_who_are_refused_meanwhile_it_says_when_to_come_back(clock: ManualClock) -> None:
    with outages(clock) as outage:
        breaker = outage.fleet.process(on_store_failure="deny")
        outage.begin()
        refused(breaker)
        outage.backend = RedisBackend(outage.url, clock=clock, socket_timeout=20)
        outage.store.backend = outage.backend
        clock.advance(5)
        thread = stuck(breaker)
        assert refused(breaker).retry_after == 5
        assert breaker.stats["rejections"] == 2
        outage.end()
        thread.join()


def test_a_probe_may_go_through_its_own_breaker_again(store: Backend, clock: ManualClock) -> None:
    breaker = CircuitBreaker("nested", backend=store, clock=clock, failure_threshold=1, recovery_timeout=1)

    def call(depth: int, fails: bool) -> int:
        if depth:
            return breaker.call(call, depth - 1, fails)
        if fails:
            raise ConnectionError("no answer")
        return 1

    for fails in (True, True, False):
        clock.advance(10)
        if fails:
            with pytest.raises(ConnectionError):
                call(3, fails)
            assert breaker.state == "open"
        else:
            assert call(3, fails) == 1
    assert breaker.state == "closed"
    assert breaker.get_status()["half_open_calls"] == 0


def test_a_child_that_leaves_the_block_it_was_forked_in_settles_nothing(valkey_url: str) -> None:
    backend = RedisBackend(valkey_url, key_prefix=uuid.uuid4().hex, **PATIENT)
    breaker = CircuitBreaker("forked", backend=backend, failure_threshold=1, recovery_timeout=0.01)
    breaker.acquire().failure()
    eventually(lambda: breaker.peek(refresh=True) == ("open", 0.0))
    with breaker:
        child = os.fork()
        if child == 0:
            breaker.__exit__(None, None, None)
            os._exit(0)
        os.waitpid(child, 0)
        status = breaker.get_status()
        assert (status["state"], status["half_open_calls"]) == ("half_open", 1)
    assert breaker.state == "closed"


def test_a_coroutine_judges_as_others_do(store: Backend, clock: ManualClock) -> None:
    breaker = CircuitBreaker("judged", backend=store, clock=clock, failure_threshold=3, is_failure=lambda n: n < 0)

    async def record() -> None:
        await (await breaker.aacquire()).arecord(ConnectionError())
        await (await breaker.aacquire()).arecord_result(-1)
        assert breaker.get_status()["failure_count"] == 2
        await (await breaker.aacquire()).arecord_result(1)
        assert breaker.get_status()["failure_count"] == 0
        await (await breaker.aacquire()).arecord(None)

    asyncio.run(record())
    assert breaker.stats | {"rejections": 0} == {"successes": 2, "failures": 2, "rejections": 0, "shadow_rejections": 0}


def test_calls_within_a_probe_are_no_further_probes(store: Backend, clock: ManualClock) -> None:
    breaker = CircuitBreaker(
        "nested", backend=store, clock=clock, failure_threshold=1, recovery_timeout=1, success_threshold=3
    )
    breaker.acquire().failure()
    for probes in range(3):
        clock.advance(10)
        assert breaker.state == ("half_open" if probes else "open")
        assert breaker.call(lambda: [breaker.call(len, "") for _ in range(5)]) == [0] * 5
    assert breaker.state == "closed"


def test_a_look_takes_no_place_and_sees_what_others_did(fleet: Fleet) -> None:
    watcher, caller = fleet.process(failure_threshold=1), fleet.process(failure_threshold=1)
    assert watcher.peek() == ("closed", 0.0)
    caller.acquire().failure()
    fleet.clock.advance(0.25)
    state, wait = watcher.peek()
    assert state == "open"
    assert wait == pytest.approx(59.75)
    fleet.clock.advance(60)
    assert watcher.peek() == ("open", 0.0)
    probe = caller.acquire()
    assert watcher.peek() == ("half_open", 0.0)
    assert watcher.get_status()["half_open_calls"] == 1
    probe.success()
    assert watcher.peek() == ("closed", 0.0)


def test_no_permit_rests_on_a_look_at_a_breaker_that_nobody_asked_yet(fleet: Fleet) -> None:
    breaker = fleet.process(failure_threshold=1)
    breaker.peek()
    permit = breaker.acquire()
    breaker.reset()
    permit.failure()
    assert breaker.state == "closed"


@pytest.mark.parametrize(("ago", "state"), [(5.0, "open"), (15.0, "closed")])
def test_testimony_about_a_call_of_another_process_counts_if_it_began_since_the_last_change(
    fleet: Fleet, ago: float, state: str
) -> None:
    breaker, main = fleet.process(failure_threshold=1), fleet.process(failure_threshold=1)
    breaker.acquire().failure()
    fleet.clock.advance(60)
    breaker.acquire().success()
    fleet.clock.advance(10)
    main.report_external(TimeoutError("killed"), started_ago=ago)
    assert main.state == state


def test_testimony_frees_the_place_of_a_probe_that_was_killed(fleet: Fleet) -> None:
    breaker, main = fleet.process(failure_threshold=1), fleet.process(failure_threshold=1)
    breaker.acquire().failure()
    fleet.clock.advance(60)
    breaker.acquire("the prober")
    assert not main.is_allowed()
    main.report_external(None, started_ago=1.0, lease_id="the prober")
    assert main.get_status()["half_open_calls"] == 0
    assert main.is_allowed()


def test_one_error_of_a_call_within_a_call_counts_once(fleet: Fleet) -> None:
    breaker = fleet.process(failure_threshold=3)

    @breaker
    def down() -> None:
        raise ConnectionError

    for _ in range(2):
        with pytest.raises(ConnectionError):
            breaker.call(down)
        fleet.clock.advance(0.001)
    assert breaker.get_status()["failure_count"] == 2
    again = ConnectionError("the very same object, raised by several calls, is several failures")

    def same() -> None:
        raise again

    for number in range(2):
        other = fleet.process(failure_threshold=5)
        with pytest.raises(ConnectionError):
            other.call(same)
        fleet.clock.advance(0.001)
        assert other.get_status()["failure_count"] == 3 + number


def test_a_failure_that_finds_others_probing_has_to_wait_for_them(fleet: Fleet) -> None:
    breaker, prober = fleet.process(failure_threshold=1), fleet.process(failure_threshold=1)
    late = breaker.acquire()
    prober.acquire().failure()
    fleet.clock.advance(60)
    prober.acquire()
    assert 0 < late.failure() <= 60
    assert breaker.state == "half_open"
