"""Blocks of a shared budget, spent without asking: what they cost, and how many they let pass on top."""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

from ratelimit_core import ConfigurationError, Limiter
from ratelimit_core.backends import Backend
from ratelimit_core.testing import ManualClock

from .conftest import MakeLimiter

every_way = pytest.mark.parametrize(
    "algorithm", ["sliding_window", "sliding_window_counter", "fixed_window", "token_bucket"]
)


def taken(limiter: Limiter) -> int:
    return limiter.peek().limit - limiter.peek().remaining


@every_way
def test_a_block_is_taken_at_once_and_spent_without_asking(make: MakeLimiter, algorithm: str) -> None:
    leased, plain = make("100/s", algorithm=algorithm, local_quota=10), make("100/s", algorithm=algorithm)
    for hits in range(1, 26):
        assert leased.hit()
        assert taken(plain) == 10 * -(-hits // 10)


def test_it_costs_one_round_trip_for_each_block(
    shared: Backend, clock: ManualClock, round_trips: Callable[[], int]
) -> None:
    limiter = Limiter("1000/s", key="leased", local_quota=100, backend=shared, clock=clock)
    limiter.hit()
    round_trips()
    assert all(limiter.hit() for _ in range(500))
    assert round_trips() == 5


@every_way
def test_where_there_is_no_room_for_a_block_each_hit_asks(make: MakeLimiter, algorithm: str) -> None:
    one, other = make("25/m", algorithm=algorithm, local_quota=10), make("25/m", algorithm=algorithm, local_quota=10)
    passed = sum(bool(limiter.hit()) for limiter in itertools.islice(itertools.cycle([one, other]), 60))
    assert passed == 25


@every_way
def test_what_passes_in_a_period_is_the_limit_and_the_blocks_outstanding(
    make: MakeLimiter, clock: ManualClock, algorithm: str
) -> None:
    limiters = [make("40/s", algorithm=algorithm, local_quota=10) for _ in range(3)]
    passed: list[float] = []
    for step in range(400):
        for limiter in limiters:
            if step % 7 < 3 and limiter.hit():
                passed.append(clock.now / 1e6)
        clock.advance(0.01)
    documented = 80 if algorithm in ("fixed_window", "token_bucket") else 40
    busiest = max(sum(start <= at < start + 1 for at in passed) for start in passed)
    assert busiest <= documented + 3 * 10
    assert len(passed) > 100


@every_way
def test_a_block_ends_with_its_window(make: MakeLimiter, clock: ManualClock, algorithm: str) -> None:
    limiter = make("40/s", algorithm=algorithm, local_quota=10)
    assert limiter.hit()
    clock.advance(1.25)  # a counter in slices remembers that long
    plain = make("40/s", algorithm=algorithm)
    assert taken(plain) == 0
    assert limiter.hit()
    assert taken(plain) == 10, "the old block is not spent any more"


@every_way
def test_what_is_left_can_be_given_back(make: MakeLimiter, algorithm: str) -> None:
    limiter, plain = make("40/m", algorithm=algorithm, local_quota=10), make("40/m", algorithm=algorithm)
    for _ in range(3):
        assert limiter.hit()
    limiter.return_unused()
    assert taken(plain) == 3
    limiter.return_unused()
    assert taken(plain) == 3
    assert limiter.hit()
    assert taken(plain) == 13


def test_what_was_given_back_is_not_spent_by_a_thread_that_was_about_to(make: MakeLimiter) -> None:
    leased = make("25/m", local_quota=10)
    leased.hit()
    assert leased._quota is not None
    (seen,) = leased._quota._blocks.values()  # by that thread
    leased.return_unused()
    assert taken(leased) == 1
    assert not seen.units


def test_a_refund_goes_back_to_the_block(make: MakeLimiter) -> None:
    limiter, plain = make("40/m", local_quota=10), make("40/m")
    hits = [limiter.hit() for _ in range(10)]
    limiter.refund(hits[0])
    assert limiter.hit()
    assert taken(plain) == 10
    assert limiter.hit()
    assert taken(plain) == 20


def test_a_greater_cost_asks(make: MakeLimiter) -> None:
    limiter, plain = make("40/m", local_quota=10), make("40/m")
    assert limiter.hit()
    assert limiter.hit(cost=5)
    assert taken(plain) == 15


def test_keys_have_blocks_of_their_own(make: MakeLimiter) -> None:
    limiter = make("10/m", local_quota=10)
    assert all(limiter.hit(key="a") for _ in range(10))
    assert all(limiter.hit(key="b") for _ in range(10))
    assert not limiter.hit(key="a")


def test_a_forked_child_spends_nothing_of_its_parents(make: MakeLimiter) -> None:
    limiter = make("40/m", local_quota=10)
    plain = make("40/m")
    assert limiter.hit()
    child = os.fork()
    if child == 0:
        limiter.hit()
        os._exit(taken(plain))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 20, "the child takes a block"
    before = taken(plain)
    assert limiter.hit()
    assert taken(plain) == before, "the parent still has its own"


@pytest.mark.every_store
def test_threads_spend_each_of_a_block_once(make: MakeLimiter) -> None:
    limiter = make("1000/d", local_quota=100)
    passed: list[int] = []

    def spend() -> None:
        passed.append(sum(bool(limiter.hit()) for _ in range(400)))

    threads = [threading.Thread(target=spend) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(passed) <= 1000
    assert sum(passed) > 1000 - 100, "of blocks that are taken at the same time none is lost"


@pytest.mark.parametrize("lease", [1, 0, 41, 2.0, "10"])
def test_a_wrong_lease_is_refused(lease: Any) -> None:
    with pytest.raises(ConfigurationError, match="should be a whole number from 2 to the limit, 40"):
        Limiter("40/m", key="x", local_quota=lease)


def test_places_to_run_are_not_leased() -> None:
    with pytest.raises(ConfigurationError, match="concurrency slots can't be taken in advance"):
        Limiter(key="x", concurrency=5, local_quota=2)


async def hits(limiter: Limiter, times: int) -> int:
    return sum([bool(await limiter.ahit()) for _ in range(times)])


def test_event_loops_lease_too(make: MakeLimiter) -> None:
    limiter, plain = make("40/m", local_quota=10), make("40/m")
    assert asyncio.run(hits(limiter, 12)) == 12
    assert taken(plain) == 20
