from __future__ import annotations

import asyncio
import os
import threading
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ratelimit_core import ConfigurationError, Limiter, RateLimitExceeded
from ratelimit_core.backends import Backend, Call, MemoryBackend, RedisBackend
from ratelimit_core.limiter.concurrency import acquire_lease, release_lease, renew_lease
from ratelimit_core.policies import Verdict
from ratelimit_core.testing import ManualClock
from tests.servers import PATIENT

from .conftest import ALGORITHMS, RESERVING, MakeLimiter

# What was said is what happens


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_limit_passes_and_no_more(make: MakeLimiter, algorithm: str) -> None:
    limiter = make("5/s", algorithm=algorithm)
    allowed = [bool(limiter.hit()) for _ in range(8)]
    assert allowed == [True] * 5 + [False] * 3 if algorithm != "leaky_bucket" else [True] + [False] * 7


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_waiting_retry_after_is_enough_and_a_microsecond_less_is_not(
    make: MakeLimiter, clock: ManualClock, algorithm: str
) -> None:
    limiter = make("3/7s", algorithm=algorithm)
    for step in range(20):
        clock.advance(step * 0.1)
        while decision := limiter.hit():
            pass
        assert decision.retry_after > 0
        clock.advance(decision.retry_after - 0.000_001)
        assert not limiter.peek()
        assert not limiter.hit()
        clock.advance(0.000_001)
        assert limiter.peek()
        assert limiter.hit()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_peek_says_what_hit_would_and_takes_nothing(make: MakeLimiter, algorithm: str) -> None:
    limiter = make("2/s", algorithm=algorithm)
    for _ in range(3):
        assert limiter.peek().allowed
    while True:
        foreseen, happened = limiter.peek(), limiter.hit()
        assert (foreseen.allowed, foreseen.retry_after) == (happened.allowed, happened.retry_after)
        if not happened:
            break
    assert foreseen.remaining == happened.remaining == 0


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_decision_counts_down_what_is_left(make: MakeLimiter, clock: ManualClock, algorithm: str) -> None:
    limiter = make("4/s", algorithm=algorithm)
    limit = 1 if algorithm == "leaky_bucket" else 4
    decisions = [limiter.hit() for _ in range(limit)]
    assert [(decision.limit, decision.remaining) for decision in decisions] == [
        (limit, left) for left in reversed(range(limit))
    ]
    assert decisions[-1].retry_after == 0
    clock.advance(decisions[-1].reset_after)
    assert limiter.peek().remaining == limit


@pytest.mark.parametrize("algorithm", [name for name in ALGORITHMS if name != "leaky_bucket"])
def test_denied_hits_cost_nothing(make: MakeLimiter, clock: ManualClock, algorithm: str) -> None:
    limiter = make("3/s", algorithm=algorithm)
    assert limiter.hit(3)
    wait = limiter.hit(3).retry_after
    for _ in range(50):
        assert not limiter.hit()
        assert not limiter.hit(2)
    clock.advance(wait)
    assert limiter.hit(3)


# Cost


@pytest.mark.parametrize("algorithm", [name for name in ALGORITHMS if name != "leaky_bucket"])
def test_cost_is_taken_whole_or_not_at_all(make: MakeLimiter, algorithm: str) -> None:
    limiter = make("10/s", algorithm=algorithm)
    assert limiter.hit(7).remaining == 3
    assert not limiter.hit(4)
    assert limiter.hit(3).remaining == 0


@pytest.mark.parametrize("cost", [0, -1, True, 1.0, "1", None, 6, 10**30])
@pytest.mark.parametrize("ask", ["hit", "peek", "reserve"])
def test_a_cost_that_can_never_be_paid_is_an_error_and_not_a_wait(make: MakeLimiter, ask: str, cost: Any) -> None:
    limiter = make("5/s;100/h")
    with pytest.raises(ConfigurationError, match="from 1 to the limit, 5"):
        limiter.reserve(10, cost) if ask == "reserve" else getattr(limiter, ask)(cost)
    assert limiter.hit(5)


def test_a_denial_of_one_cost_or_key_says_nothing_of_another(make: MakeLimiter) -> None:
    limiter = make("10/s")
    assert limiter.hit(8)
    assert not limiter.hit(3)
    assert limiter.hit(2)
    assert not limiter.hit()
    assert limiter.hit(3, key="another")


# Several limits


def test_several_rates_are_one_decision_with_the_longest_wait(make: MakeLimiter, clock: ManualClock) -> None:
    limiter = make("2/s;3/m")
    assert limiter.hit(2)
    denied = limiter.hit(2)
    assert (denied.denied_by, denied.retry_after, denied.reset_after) == (1, 60, 60)
    clock.advance(1)
    assert limiter.hit()  # the denied hit took none of either
    denied = limiter.hit()
    assert (denied.denied_by, denied.limit, denied.remaining, denied.retry_after) == (1, 3, 0, 59)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_waiting_retry_after_is_enough_for_all_of_several(
    make: MakeLimiter, clock: ManualClock, algorithm: str
) -> None:
    limiter = make("3/s;5/3s;8/10s", algorithm=algorithm)
    denied_by = set()
    for _ in range(40):
        decision = limiter.hit()
        if not decision:
            denied_by.add(decision.denied_by)
            clock.advance(decision.retry_after)
            assert limiter.hit()
    assert len(denied_by) > (algorithm != "leaky_bucket")  # of that one the slowest limit alone makes wait


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(st.tuples(st.integers(0, 900_000), st.integers(1, 4)), min_size=1, max_size=80),
    algorithm=st.sampled_from(["sliding_window", "sliding_window_counter"]),
)
def test_no_second_sees_more_than_the_limit(steps: list[tuple[int, int]], algorithm: Any) -> None:
    clock = ManualClock()
    limiter = Limiter("7/s", key="k", algorithm=algorithm, backend=MemoryBackend(clock=clock), clock=clock)
    log: list[int] = []
    for pause, cost in steps:
        clock.now += pause // 4
        log += [clock.now] * (cost if limiter.hit(cost) else 0)
    assert all(sum(at <= other < at + 1_000_000 for other in log) <= 7 for at in log)


def test_limiters_of_one_key_rate_and_algorithm_share_one_count(make: MakeLimiter) -> None:
    one, other = make("2/m"), make("2/60s")
    assert one.hit()
    assert other.hit()
    assert not one.peek()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"key": "a"}, {"key": "b"}),
        ({"rate": "1/s"}, {"rate": "1/1001ms"}),
        ({"algorithm": "token_bucket"}, {"algorithm": "leaky_bucket"}),
        ({"algorithm": "token_bucket"}, {"algorithm": "token_bucket", "burst": 1}),
        ({"algorithm": "fixed_window"}, {"algorithm": "sliding_window"}),
    ],
)
def test_what_differs_does_not_share(make: MakeLimiter, one: dict[str, Any], other: dict[str, Any]) -> None:
    first, second = make(**{"rate": "3/s", **one}), make(**{"rate": "3/s", **other})
    while first.hit():
        pass
    assert second.peek().remaining == second.peek().limit


def test_a_token_bucket_that_names_its_burst_as_it_is_anyway_is_the_same(make: MakeLimiter) -> None:
    assert make("3/s", algorithm="token_bucket").hit(3)
    assert not make("3/s", algorithm="token_bucket", burst=3).peek()


def test_a_burst_is_spent_at_once_and_comes_back_at_the_rate(make: MakeLimiter, clock: ManualClock) -> None:
    limiter = make("2/s", algorithm="token_bucket", burst=6)
    assert limiter.hit(6)
    assert limiter.hit().retry_after == 0.5
    clock.advance(1)
    assert limiter.hit(2)
    assert not limiter.hit()


# Giving back


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_refund_gives_back_what_was_taken(make: MakeLimiter, algorithm: str) -> None:
    limiter = make("5/s;5/m", algorithm=algorithm)
    cost = 1 if algorithm == "leaky_bucket" else 3
    taken = limiter.hit(cost)
    limiter.refund(taken)
    assert limiter.peek().remaining == limiter.peek().limit


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_refund_of_a_denial_gives_nothing(make: MakeLimiter, algorithm: str) -> None:
    limiter = make("1/s", algorithm=algorithm)
    assert limiter.hit()
    limiter.refund(limiter.hit())
    assert not limiter.peek()


def test_a_refund_is_seen_at_once_by_whoever_was_denied(make: MakeLimiter) -> None:
    limiter = make("1/m")
    taken = limiter.hit()
    assert not limiter.hit()
    limiter.refund(taken)
    assert limiter.hit()


def test_a_refund_of_a_sliding_window_counts_once(make: MakeLimiter) -> None:
    limiter = make("2/s")
    taken = limiter.hit()
    assert limiter.hit()
    limiter.refund(taken)
    limiter.refund(taken)
    assert limiter.peek().remaining == 1


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_reset_forgets_what_was_taken_of_every_limit_of_that_key(make: MakeLimiter, algorithm: str) -> None:
    limiter = make("1/s;1/h", algorithm=algorithm, concurrency=1)
    assert limiter.hit()
    assert limiter.hit(key="another")
    assert not limiter.hit()
    limiter.reset()
    assert limiter.hit()
    assert not limiter.hit(key="another")


# Concurrency


def test_places_are_limited_and_given_back(make: MakeLimiter) -> None:
    limiter = make(concurrency=2)
    first, second = limiter.hit(), limiter.hit()
    assert (first.remaining, second.remaining) == (1, 0)
    assert not limiter.hit()
    limiter.release(first)
    limiter.release(first)
    assert limiter.hit()
    assert not limiter.hit()


def test_the_place_of_the_dead_is_free_after_the_timeout(make: MakeLimiter, clock: ManualClock) -> None:
    limiter = make(concurrency=1, timeout=30)
    assert limiter.hit()
    assert limiter.hit().retry_after == 30
    clock.advance(30)
    assert limiter.hit()


def test_a_run_takes_one_place_whatever_it_costs_of_the_rates(make: MakeLimiter) -> None:
    limiter = make("100/s", concurrency=2)
    runs = [limiter.hit(10), limiter.hit(40)]
    assert all(runs)
    assert limiter.hit().limit == 2
    for run in runs:
        limiter.release(run)
    assert limiter.peek().remaining == 2
    assert limiter.hit(50)
    assert not limiter.hit()  # places were given back, what was spent of the rate was not


def test_while_places_are_taken_a_denial_spends_no_rate(make: MakeLimiter) -> None:
    limiter = make("3/s", concurrency=1)
    with limiter:
        for _ in range(5):
            assert not limiter.hit()
    assert make("3/s").peek().remaining == 2


# With


def test_with_releases_on_the_way_out_whatever_happened(make: MakeLimiter) -> None:
    limiter = make(concurrency=1)
    for error in (ValueError, KeyboardInterrupt, GeneratorExit):
        with pytest.raises(error), limiter:
            raise error
        assert limiter.peek()
    with limiter as permit:
        assert permit.allowed
        assert not limiter.peek()
    assert limiter.peek()


def test_with_raises_what_the_denial_says(make: MakeLimiter) -> None:
    limiter = make("1/m;2/m", concurrency=5)
    with limiter:
        pass
    with pytest.raises(RateLimitExceeded) as refused, limiter:
        pytest.fail("the block ran")
    error = refused.value
    assert (error.key, error.limit, error.remaining, error.retry_after, error.denied_by) == ("supplier", 1, 0, 60, 0)
    assert make(concurrency=5).peek().remaining == 5


def test_with_can_be_nested(make: MakeLimiter) -> None:
    limiter = make(concurrency=2)
    with limiter:
        with limiter:
            assert not limiter.peek()
        assert limiter.peek().remaining == 1
    assert limiter.peek().remaining == 2


def holding(limiter: Limiter) -> Iterator[None]:
    with limiter:
        yield


def test_two_limiters_that_interleave_release_each_their_own(make: MakeLimiter) -> None:
    one, other = make(concurrency=1, key="one"), make(concurrency=1, key="other")
    first, second = holding(one), holding(other)
    next(first), next(second)
    next(first, None)
    assert one.peek()
    assert not other.peek()
    next(second, None)
    assert other.peek()


def test_a_block_may_end_in_another_context_or_thread_than_it_began(make: MakeLimiter) -> None:
    limiter = make(concurrency=1)
    for run in (copy_context().run, thread):
        block = holding(limiter)
        run(next, block)
        assert not limiter.peek()
        copy_context().run(next, block, None)
        assert limiter.peek()


def test_async_tasks_hold_a_place_each(make: MakeLimiter) -> None:
    limiter = make(concurrency=3)

    async def work(turn: asyncio.Event, left: int) -> None:
        with limiter:
            assert limiter.peek().remaining == left
            await turn.wait()

    async def main() -> None:
        turns = [asyncio.Event() for _ in range(3)]
        async with asyncio.TaskGroup() as tasks:
            for left, turn in zip((2, 1, 0), turns, strict=True):
                tasks.create_task(work(turn, left))
            await asyncio.sleep(0)
            for turn in turns:
                turn.set()

    asyncio.run(main())
    assert limiter.peek().remaining == 3


def thread(step: Any, *args: Any) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(step, *args).result()


def test_blocks_that_end_in_another_order_leave_nobody_with_less_time(make: MakeLimiter, clock: ManualClock) -> None:
    limiter = make(concurrency=2, timeout=60)
    old, young = holding(limiter), holding(limiter)
    next(old)
    clock.advance(50)
    next(young)
    next(old, None)
    clock.advance(59)
    assert limiter.peek().remaining == 1
    next(young, None)
    assert limiter.peek().remaining == 2


@pytest.mark.every_store
def test_threads_never_hold_more_places_than_there_are(store: Backend) -> None:
    limiter = Limiter(concurrency=3, key="threads", backend=store)
    inside, most, ran = 0, 0, 0
    lock = threading.Lock()

    def work(_: int) -> None:
        nonlocal inside, most, ran
        try:
            with limiter:
                with lock:
                    inside += 1
                    most = max(most, inside)
                    ran += 1
                limiter.peek()  # stay a while
                with lock:
                    inside -= 1
        except RateLimitExceeded:
            pass

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(200)))
    assert ran > 0
    assert most <= 3
    assert limiter.peek().remaining == 3


# What bad input gets


@pytest.mark.parametrize(
    ("rate", "options", "says"),
    [
        *((None, {}, "needs a rate"), ("10/w", {}, "not a rate"), (5, {}, "not a rate"), ([], {}, "not a rate")),
        *(("1/s", {"key": ""}, "key=''"), ("1/s", {"key": None}, "key=None"), ("1/s", {"key": 5}, "key=5")),
        *(("1/s", {"algorithm": "gcra"}, "'sliding_window', "), ("1/s", {"algorithm": []}, "algorithm=")),
        (None, {"algorithm": "gcra", "concurrency": 1}, "algorithm="),
        *(("1/s", {"algorithm": "token_bucket", "burst": burst}, "burst=") for burst in (0, -1, True, 1.5)),
        *(("1/s", {"burst": 5}, "token_bucket"), ("1/s", {"burst": 5, "algorithm": "leaky_bucket"}, "token_bucket")),
        ("1/d", {"algorithm": "token_bucket", "burst": 500}, "400 days"),
        ("100001/d", {}, "sliding_window_counter"),
        *((None, {"concurrency": places}, "concurrency=") for places in (0, -1, True, 1.5, 100_001)),
        *((None, {"concurrency": 1, "timeout": t}, "timeout=") for t in (0, -1, float("nan"), "60", None, True)),
        *(
            ("1/s", {"on_store_failure": "maybe"}, "'local', 'allow', 'deny'"),
            ("1/s", {"backend": "redis://"}, "Backend"),
        ),
    ],
    ids=lambda value: f"{value!a:.40}",
)
def test_nonsense_is_refused_where_the_limiter_is_made(rate: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        Limiter(rate, **{"key": "k", **options})


@pytest.mark.parametrize("algorithm", ["fixed_window", "sliding_window_counter"])
def test_what_cannot_reserve_says_what_can(make: MakeLimiter, algorithm: str) -> None:
    for limiter in (make("1/s", algorithm=algorithm), make(concurrency=1)):
        with pytest.raises(ConfigurationError, match="sliding_window"):
            limiter.reserve(10)


@pytest.mark.parametrize("algorithm", RESERVING)
@pytest.mark.parametrize("wait", [-1, float("nan")])
def test_a_wait_that_is_no_number_of_seconds_is_refused(make: MakeLimiter, algorithm: str, wait: float) -> None:
    with pytest.raises(ConfigurationError, match="max_wait"):
        make("1/s", algorithm=algorithm).reserve(wait)
    with pytest.raises(ConfigurationError, match="not_before"):
        make("1/s", algorithm=algorithm).reserve(1, not_before=wait)


def test_keys_of_any_text_and_length_are_kept_apart(make: MakeLimiter) -> None:
    limiter = make("1/s")
    for key in ("a b", "a%20b", "{a}b", "é", "é\0", "x" * 5000, "x" * 5001, "a:b", "\ud800"):
        assert limiter.hit(key=key)
        assert not limiter.hit(key=key)


# Leases by their ids


def test_a_lease_is_renewed_and_released_by_its_id(store: Backend, clock: ManualClock) -> None:
    places = Limiter(key="places", concurrency=1, timeout=10, backend=store, clock=clock)
    assert acquire_lease(places, "mine")
    assert acquire_lease(places, "mine")
    assert not acquire_lease(places, "another's")
    clock.advance(9)
    renew_lease(places, "mine")
    clock.advance(9)
    assert not acquire_lease(places, "another's")
    release_lease(places, "mine")
    assert acquire_lease(places, "another's")


def test_a_lease_that_has_ended_is_not_renewed(store: Backend, clock: ManualClock) -> None:
    places = Limiter(key="places", concurrency=1, timeout=10, backend=store, clock=clock)
    decision = places.hit()
    places.release(decision)
    renew_lease(places, decision.lease_id)
    assert places.peek().remaining == 1
    acquire_lease(places, "mine")
    clock.advance(10)
    renew_lease(places, "mine")
    assert places.peek().remaining == 1


def test_a_rate_has_no_leases_by_id(store: Backend) -> None:
    with pytest.raises(ConfigurationError, match="acquire_lease\\(\\) needs a limiter with a concurrency and no rate"):
        acquire_lease(Limiter("1/s", key="rate", concurrency=1, backend=store), "mine")


def test_a_store_that_decides_otherwise_is_asked_each_time(clock: ManualClock) -> None:
    class Counting(MemoryBackend):
        asked = 0

        def _apply(self, calls: Sequence[Call]) -> list[Verdict]:
            self.asked += len(calls)
            return super()._apply(calls)

    backend = Counting(clock=clock)
    limiter = Limiter("3/s", key="key", backend=backend)
    assert [limiter.hit().allowed for _ in range(4)] == [True, True, True, False]
    assert backend.asked == 4


def test_what_is_hit_alone_is_the_same_as_what_is_hit_together(clock: ManualClock) -> None:
    backend = MemoryBackend(clock=clock)
    alone, twice = (Limiter("3/s", key="key", backend=backend) for _ in range(2))
    answers = [alone.hit().remaining, twice.hit(2).remaining, alone.hit().retry_after]
    assert answers == [2, 0, 1.0]


def test_a_child_that_is_forked_within_a_block_ends_no_block_of_its_parents(valkey_url: str) -> None:
    backend = RedisBackend(valkey_url, key_prefix=uuid.uuid4().hex, **PATIENT)
    limiter = Limiter(key="forked", concurrency=8, timeout=600, backend=backend)
    with limiter:
        child = os.fork()
        if child == 0:
            with limiter:
                pass
            limiter.__exit__(None, None, None)  # as it leaves the block that it was forked in
            os._exit(limiter.peek().remaining)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert limiter.peek().remaining == 7
    assert limiter.peek().remaining == 8


def test_a_child_hits_though_a_thread_of_its_parent_was_hitting(clock: ManualClock) -> None:
    backend = MemoryBackend(clock=clock)
    limiter = Limiter("3/s", key="key", backend=backend)
    limiter.hit()
    with backend._records._lock:
        child = os.fork()
        if child == 0:
            os._exit(0 if limiter.hit().remaining == 1 else 1)
    assert os.waitpid(child, 0)[1] == 0
