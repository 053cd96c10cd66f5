"""Limits in an event loop: nothing blocks it, and what was taken for nobody is given back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from ratelimit_core import BackendError, CircuitBreaker, ConfigurationError, Limiter, RateLimitExceeded
from ratelimit_core.backends import Call, MemoryBackend
from ratelimit_core.circuit_breaker.breaker import cache_of
from ratelimit_core.circuit_breaker.operator import read_record
from ratelimit_core.guard import Guard
from ratelimit_core.policies import Verdict
from ratelimit_core.testing import ManualClock
from tests.backends.faults import FaultyMemory

from .conftest import ALGORITHMS, RESERVING, MakeLimiter

# The same answers


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_it_answers_as_hit_and_peek_do(make: MakeLimiter, clock: ManualClock, algorithm: str) -> None:
    one = make("3/s;5/m", key="one", algorithm=algorithm)
    other = make("3/s;5/m", key="other", algorithm=algorithm)

    async def main() -> None:
        for _ in range(8):
            for asked, expected in ((await other.apeek(), one.peek()), (await other.ahit(), one.hit())):
                assert (asked.allowed, asked.remaining, asked.limit) == (
                    expected.allowed,
                    expected.remaining,
                    expected.limit,
                )
                assert (asked.retry_after, asked.reset_after) == (expected.retry_after, expected.reset_after)
            clock.advance(0.3)

    asyncio.run(main())


def test_it_works_in_one_loop_after_another(make: MakeLimiter) -> None:
    limiter = make("3/m")
    assert [bool(asyncio.run(limiter.ahit())) for _ in range(4)] == [True] * 3 + [False]
    assert not limiter.peek()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_arefund_gives_back_what_was_taken(make: MakeLimiter, algorithm: str) -> None:
    limiter = make("5/s;5/m", algorithm=algorithm, concurrency=2)

    async def main() -> None:
        taken = await limiter.ahit()
        await limiter.arefund(taken)
        assert (await limiter.apeek()).remaining == limiter.peek().limit

    asyncio.run(main())
    assert limiter.peek().remaining == limiter.peek().limit


def test_arelease_gives_the_place_back_and_nothing_else(make: MakeLimiter) -> None:
    limiter = make("5/m", concurrency=1)

    async def main() -> None:
        taken = await limiter.ahit()
        assert not await limiter.ahit()
        await limiter.arelease(taken)
        assert (await limiter.apeek()).allowed

    asyncio.run(main())
    assert make("5/m").peek().remaining == 4


@pytest.mark.parametrize("algorithm", RESERVING)
def test_areserve_and_aredeem_answer_as_reserve_and_redeem_do(
    make: MakeLimiter, clock: ManualClock, algorithm: str
) -> None:
    one = make("1/s;5/m", key="one", algorithm=algorithm)
    other = make("1/s;5/m", key="other", algorithm=algorithm)

    async def main() -> None:
        for _ in range(4):
            asked, expected = await other.areserve(30), one.reserve(30)
            assert asked._replace(lease_id="") == expected._replace(lease_id="")
            redeemed, expected_then = await other.aredeem(asked), one.redeem(expected)
            assert redeemed._replace(lease_id="") == expected_then._replace(lease_id="")
            clock.advance(asked.retry_after)
            if not redeemed:
                redeemed, expected_then = await other.aredeem(asked), one.redeem(expected)
                assert redeemed.allowed
                assert redeemed._replace(lease_id="") == expected_then._replace(lease_id="")
        assert not await other.areserve(0.1, denied_by=0, not_before=0.2)
        with pytest.raises(ConfigurationError, match="max_wait"):
            await other.areserve(-1)

    asyncio.run(main())


def test_with_holds_a_place_and_gives_it_back_whatever_happened(make: MakeLimiter) -> None:
    limiter = make(concurrency=2)

    async def failing(error: type[BaseException]) -> None:
        async with limiter as decision:
            assert decision.allowed
            assert (await limiter.apeek()).remaining == 1
            raise error

    async def main() -> None:
        for error in (ValueError, KeyError, asyncio.CancelledError):
            with pytest.raises(error):
                await failing(error)
            assert (await limiter.apeek()).remaining == 2
        async with limiter, limiter:
            with pytest.raises(RateLimitExceeded) as refused:
                async with limiter:
                    pytest.fail("the block ran")
            assert (refused.value.key, refused.value.limit) == ("supplier", 2)

    asyncio.run(main())
    assert limiter.peek().remaining == 2


def test_a_cost_or_key_of_ones_own(make: MakeLimiter) -> None:
    limiter = make("10/s")

    async def main() -> None:
        assert (await limiter.ahit(7)).remaining == 3
        assert not await limiter.ahit(4)
        assert await limiter.ahit(4, key="another")
        assert not await limiter.apeek(4)
        with pytest.raises(ConfigurationError, match="from 1 to the limit, 10"):
            await limiter.ahit(11)
        with pytest.raises(ConfigurationError, match="from 1 to the limit, 10"):
            await limiter.apeek(0)

    asyncio.run(main())


def test_many_tasks_hold_no_more_places_than_there_are(make: MakeLimiter) -> None:
    limiter = make(concurrency=3)
    inside = most = ran = 0

    async def work() -> None:
        nonlocal inside, most, ran
        try:
            async with limiter:
                inside += 1
                ran += 1
                most = max(most, inside)
                await asyncio.sleep(0)
                inside -= 1
        except RateLimitExceeded:
            pass

    async def main() -> None:
        for _ in range(5):
            limiter.known_denials.clear()
            await asyncio.gather(*(work() for _ in range(8)))

    asyncio.run(main())
    assert 0 < most <= 3 <= ran
    assert limiter.peek().remaining == 3


# A store whose answers wait to be let out


class Gate(MemoryBackend):
    shared = True

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock=clock)
        self.asked = asyncio.Event()
        self.open = asyncio.Event()
        self.open.set()

    async def _aapply(self, calls: Sequence[Call]) -> list[Verdict]:
        verdicts = self._apply(calls)
        self.asked.set()
        await self.open.wait()
        return verdicts

    def shut(self) -> None:
        self.asked.clear()
        self.open.clear()


async def cancelled(gate: Gate, work: Awaitable[Any]) -> None:
    """Cancel ``work`` while it waits for the answer; then let the answer out, and what follows it take place."""
    gate.shut()
    task = asyncio.ensure_future(work)
    await gate.asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.open.set()
    while others := asyncio.all_tasks() - {asyncio.current_task()}:  # nobody else waits for what follows
        await asyncio.wait(others)


def limiter_on(gate: Gate, rate: str | None = "5/m", **options: Any) -> Limiter:
    return Limiter(rate, **{"key": "supplier", "backend": gate, "clock": gate._records._clock, **options})


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_cancelled_while_it_asks_it_gives_the_place_back(clock: ManualClock, algorithm: Any) -> None:
    """Not what it took of the rate: it is spent, as by a call that was made and cancelled then."""

    async def main() -> None:
        gate = Gate(clock)
        limiter = limiter_on(gate, algorithm=algorithm, concurrency=1)
        places = limiter_on(gate, None, concurrency=1)
        await cancelled(gate, limiter.ahit())
        assert places.peek()
        await cancelled(gate, limiter.ahit(key="another"))
        assert places.peek(key="another")
        clock.advance(12)
        await cancelled(gate, limiter.__aenter__())
        assert places.peek()
        assert not limiter._entered
        left = {"leaky_bucket": 0, "token_bucket": 4}.get(algorithm, 3)  # a bucket is refilled meanwhile
        assert limiter_on(gate, algorithm=algorithm).peek().remaining == left

    asyncio.run(main())


@pytest.mark.parametrize("algorithm", RESERVING)
def test_a_reservation_that_was_cancelled_is_given_back(clock: ManualClock, algorithm: Any) -> None:
    async def main() -> None:
        gate = Gate(clock)
        limiter = limiter_on(gate, "1/m", algorithm=algorithm)
        await cancelled(gate, limiter.areserve(300))  # there was room at once
        assert limiter.hit()
        await cancelled(gate, limiter.areserve(300, denied_by=0))
        assert limiter.reserve(300, denied_by=0).retry_after == 60, "the first place in the queue is free again"

    asyncio.run(main())


def test_a_redemption_that_was_cancelled_releases_its_slot(clock: ManualClock) -> None:
    async def main() -> None:
        gate = Gate(clock)
        limiter = limiter_on(gate, "1/m", concurrency=1)
        limiter.release(limiter.hit())
        reservation = limiter.reserve(300)
        clock.advance(60)
        await cancelled(gate, limiter.aredeem(reservation))
        assert limiter_on(gate, None, concurrency=1).peek()
        assert not limiter.redeem(reservation), "it was used"

    asyncio.run(main())


@pytest.mark.parametrize("probing", [False, True])
def test_an_admission_that_was_cancelled_is_given_back(clock: ManualClock, probing: bool) -> None:
    async def main() -> None:
        gate = Gate(clock)
        breaker = CircuitBreaker("payments", failure_threshold=1, recovery_timeout=10, backend=gate, clock=clock)
        limiter = limiter_on(gate, "5/m", concurrency=1)
        if probing:
            breaker.acquire().failure()
            clock.advance(10)
        await cancelled(gate, Guard(breaker, limiter).aacquire())
        assert limiter_on(gate, None, concurrency=1).peek()
        assert breaker.get_status()["half_open_calls"] == 0
        assert limiter_on(gate, "5/m").peek().remaining == 4, "spent, as by a call that was cancelled"

    asyncio.run(main())


def test_a_denial_that_was_cancelled_gives_nothing_back(clock: ManualClock) -> None:
    async def main() -> None:
        gate = Gate(clock)
        limiter = limiter_on(gate, "2/m", algorithm="token_bucket")
        assert limiter.hit(2)
        await cancelled(gate, limiter.ahit())
        assert limiter.peek().remaining == 0

    asyncio.run(main())


def test_a_look_that_was_cancelled_took_nothing(clock: ManualClock) -> None:
    async def main() -> None:
        gate = Gate(clock)
        limiter = limiter_on(gate, concurrency=1)
        await cancelled(gate, limiter.apeek())
        assert limiter.peek().remaining == 1

    asyncio.run(main())


@pytest.mark.parametrize("settle", ["arelease", "arefund", "__aexit__"])
def test_cancelled_while_it_gives_back_it_has_given_back(clock: ManualClock, settle: str) -> None:
    async def main() -> None:
        gate = Gate(clock)
        limiter = limiter_on(gate, None, concurrency=1)
        decision = await limiter.__aenter__()
        assert not limiter.peek()
        if settle == "__aexit__":
            await cancelled(gate, limiter.__aexit__(None, None, None))
        else:
            await cancelled(gate, getattr(limiter, settle)(decision))
        assert limiter.peek()

    asyncio.run(main())


def test_others_run_while_one_asks(clock: ManualClock) -> None:
    async def main() -> None:
        gate = Gate(clock)
        limiter = limiter_on(gate)
        gate.shut()
        asking = asyncio.create_task(limiter.ahit())
        await gate.asked.wait()
        assert not asking.done()
        gate.open.set()
        assert await asking

    asyncio.run(main())


# Tasks cost more than all else


def tasks_made(work: Callable[[], Awaitable[object]]) -> int:
    """How many tasks ``work`` makes, after it was done once."""
    made = 0

    def count(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        nonlocal made
        made += 1
        return asyncio.Task(coroutine, loop=loop, **options)

    async def main() -> int:
        await work()
        asyncio.get_running_loop().set_task_factory(count)
        await work()
        return made

    return asyncio.run(main())


@pytest.fixture
def gate(clock: ManualClock) -> Gate:
    return Gate(clock)


def test_a_known_denial_makes_no_task(gate: Gate) -> None:
    limiter = limiter_on(gate, "1/m")
    assert limiter.hit()
    assert not limiter.hit()
    assert tasks_made(limiter.ahit) == 0


def test_a_look_makes_no_task(gate: Gate) -> None:
    assert tasks_made(limiter_on(gate).apeek) == 0


def test_an_admission_that_needs_no_question_makes_no_task(gate: Gate, clock: ManualClock) -> None:
    guard = Guard(CircuitBreaker("payments", backend=gate, clock=clock, cache_ttl=60), None)

    async def admitted() -> None:
        admission = await guard.aacquire()
        await admission.arecord(None)

    assert tasks_made(admitted) == 0


def test_a_reservation_that_was_due_at_once_is_redeemed_without_a_question(gate: Gate) -> None:
    limiter = limiter_on(gate, concurrency=1)
    reservation = limiter.reserve(1)
    gate.asked.clear()
    assert asyncio.run(limiter.aredeem(reservation)) == reservation
    assert not gate.asked.is_set()


def test_a_block_makes_tasks_for_a_place_only(gate: Gate) -> None:
    async def block(limiter: Limiter) -> None:
        async with limiter:
            pass

    assert tasks_made(lambda: block(limiter_on(gate, "100/m"))) == 0
    assert tasks_made(lambda: block(limiter_on(gate, "100/m", concurrency=5))) == 2


def test_a_closed_breaker_makes_no_task_in_any_form(gate: Gate, clock: ManualClock) -> None:
    breaker = CircuitBreaker("payments", backend=gate, clock=clock, cache_ttl=60)

    @breaker
    async def decorated() -> None: ...

    async def block() -> None:
        async with breaker:
            pass

    async def by_hand() -> None:
        permit = await breaker.aacquire()
        await permit.asuccess()

    async def called() -> None:
        await breaker.call(decorated)

    for work in (decorated, block, by_hand, called):
        assert tasks_made(work) == 0, work


# Of breakers, what an event loop adds


def test_successes_that_many_tasks_carry_are_counted_once(gate: Gate, clock: ManualClock) -> None:
    breaker = CircuitBreaker("payments", backend=gate, clock=clock, cache_ttl=0, failure_rate=1, minimum_calls=10**6)

    async def main() -> None:
        await (await breaker.aacquire()).asuccess()
        await asyncio.gather(*(breaker.aacquire() for _ in range(20)))

    asyncio.run(main())
    cache = cache_of(breaker)
    assert read_record(cache).calls + cache.pending_successes == 1


def test_a_probe_may_go_through_its_own_breaker_again(gate: Gate, clock: ManualClock) -> None:
    breaker = CircuitBreaker("payments", backend=gate, clock=clock, failure_threshold=1)
    breaker.acquire().failure()
    clock.advance(60)

    @breaker
    async def inner() -> str:
        return "answer"

    @breaker
    async def outer() -> str:
        await asyncio.sleep(0)
        return await inner()

    assert asyncio.run(outer()) == "answer"
    assert breaker.state == "closed"


# The store is unavailable


@pytest.mark.parametrize(
    ("on_store_failure", "allowed"), [("local", [1, 1, 0]), ("allow", [1, 1, 1]), ("deny", [0, 0, 0])]
)
def test_while_the_store_is_away_it_does_what_was_chosen(
    clock: ManualClock, on_store_failure: Any, allowed: Any
) -> None:
    backend = FaultyMemory(clock=clock)
    limiter = Limiter("2/m", key="supplier", backend=backend, clock=clock, on_store_failure=on_store_failure)
    backend.fault = BackendError("gone")

    async def main() -> None:
        decisions = [await limiter.ahit() for _ in range(3)]
        assert [decision.allowed for decision in decisions] == [bool(each) for each in allowed]
        assert all(decision.local for decision in decisions)
        for decision in decisions:
            await limiter.arefund(decision)
            await limiter.arelease(decision)

    asyncio.run(main())
    assert backend.asked == 1, "once, and not again for a while"


def test_a_guard_that_is_cancelled_before_it_asks_keeps_the_successes_that_are_to_be_reported() -> None:
    backend, clock = MemoryBackend(), ManualClock()
    breaker = CircuitBreaker("early", backend=backend, clock=clock, cache_ttl=1)
    breaker.call(len, "")
    breaker.call(len, "")
    before = cache_of(breaker).pending_successes
    assert before
    clock.advance(2)  # the next call has to ask

    async def scenario() -> None:
        asking = asyncio.ensure_future(Guard(breaker, None).aacquire())
        await asyncio.sleep(0)  # it has made the task that asks, which has not begun
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking

    asyncio.run(scenario())
    assert cache_of(breaker).pending_successes == before


def test_an_admission_whose_release_is_cancelled_settles_its_permit_all_the_same() -> None:
    class Hanging(MemoryBackend):
        hang: asyncio.Event | None = None

        async def _aapply(self, calls: Any) -> list[Verdict]:
            if self.hang is not None:
                self.hang.set()
                await asyncio.Event().wait()
            return self._apply(calls)

    slots = Hanging()
    breaker = CircuitBreaker("cancelled", backend=MemoryBackend(), failure_threshold=1)
    limiter = Limiter(key="elsewhere", concurrency=1, backend=slots)
    breaker.call(len, "")  # permits are cached, so the two need not be asked in one round trip

    async def scenario() -> None:
        admission = await Guard(breaker, limiter).aacquire()
        slots.hang = asyncio.Event()
        settling = asyncio.ensure_future(admission.arecord(ValueError("no answer")))
        await slots.hang.wait()
        settling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await settling

    asyncio.run(scenario())
    assert breaker.state == "open"
