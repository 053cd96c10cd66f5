"""Denials are answered from memory until asking again makes sense, and cost the store nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ratelimit_core import Limiter
from ratelimit_core.backends import Backend, MemoryBackend
from ratelimit_core.testing import ManualClock

from .conftest import ALGORITHMS

RoundTrips = Callable[[], int]


@pytest.fixture
def limiter(shared: Backend, clock: ManualClock) -> Limiter:
    limiter = Limiter("2/m", key="denials", backend=shared, clock=clock)
    assert limiter.hit()
    return limiter


def test_a_hit_is_one_round_trip_for_any_number_of_limits(
    shared: Backend, clock: ManualClock, round_trips: RoundTrips
) -> None:
    for algorithm in ALGORITHMS:
        limiter = Limiter(
            "10/s;100/m;1000/h;5000/d", key=algorithm, concurrency=3, backend=shared, clock=clock, algorithm=algorithm
        )
        limiter.hit(key="so that the server knows the script")
        round_trips()
        assert limiter.hit()
        assert round_trips() == 1


def test_a_denial_is_asked_for_once(limiter: Limiter, round_trips: RoundTrips) -> None:
    assert limiter.hit()
    round_trips()
    assert not any(limiter.hit() for _ in range(100))
    assert round_trips() == 1


def test_it_is_asked_for_again_after_a_second(limiter: Limiter, clock: ManualClock, round_trips: RoundTrips) -> None:
    assert limiter.hit()
    denied = limiter.hit()
    round_trips()
    clock.advance(0.75)
    later = limiter.hit()
    assert (later.retry_after, later.reset_after) == (denied.retry_after - 0.75, denied.reset_after - 0.75)
    assert round_trips() == 0
    clock.advance(0.25)
    assert limiter.hit().retry_after == denied.retry_after - 1
    assert round_trips() == 1


def test_it_is_asked_for_again_when_the_wait_is_over(shared: Backend, clock: ManualClock) -> None:
    limiter = Limiter("10/s", key="short", algorithm="leaky_bucket", backend=shared, clock=clock)
    assert limiter.hit()
    assert limiter.hit().retry_after == 0.1
    clock.advance(0.099_999)
    assert limiter.hit().retry_after == pytest.approx(0.000_001)
    clock.advance(0.000_001)
    assert limiter.hit()


def test_a_denial_of_one_cost_or_key_is_none_of_another(limiter: Limiter, round_trips: RoundTrips) -> None:
    assert not limiter.hit(2)
    round_trips()
    assert limiter.hit(2, key="another")
    assert limiter.hit(1)
    assert not limiter.hit(1)
    assert round_trips() == 3


@pytest.mark.parametrize("give_back", ["refund", "release", "reset"])
def test_what_this_process_gives_back_is_seen_at_once(shared: Backend, clock: ManualClock, give_back: str) -> None:
    limiter = Limiter(concurrency=1, key="places", backend=shared, clock=clock)
    held = limiter.hit()
    assert not limiter.hit()
    limiter.reset() if give_back == "reset" else getattr(limiter, give_back)(held)
    assert limiter.hit()


def test_what_another_process_gives_back_is_seen_within_a_second(shared: Backend, clock: ManualClock) -> None:
    ours, theirs = (Limiter(concurrency=1, key="places", backend=shared, clock=clock) for _ in range(2))
    held = theirs.hit()
    assert not ours.hit()
    theirs.release(held)
    assert not ours.hit()
    clock.advance(1)
    assert ours.hit()


def test_a_slot_that_is_not_due_denies_nobody_else(limiter: Limiter, round_trips: RoundTrips) -> None:
    assert limiter.hit()
    slot = limiter.reserve(120)
    assert slot.retry_after > 0
    assert not limiter.redeem(slot)
    round_trips()
    assert not limiter.hit()
    assert not limiter.redeem(slot)
    assert not limiter.peek()
    assert round_trips() == 3


def test_a_denied_reservation_denies_no_hit(shared: Backend, clock: ManualClock, round_trips: RoundTrips) -> None:
    limiter = Limiter("1/s", key="reserve", backend=shared, clock=clock)
    assert limiter.hit()
    assert not limiter.reserve(0.5)
    round_trips()
    assert not limiter.hit()
    assert round_trips() == 1


def test_any_number_of_keys_takes_bounded_memory(shared: Backend, clock: ManualClock) -> None:
    limiter = Limiter("1/h", key="many", backend=shared, clock=clock)
    for number in range(1500):
        limiter.hit(key=f"{number}")
        assert not limiter.hit(key=f"{number}")
    assert 0 < len(limiter.known_denials) <= 1024


def test_memory_of_ones_own_is_asked_every_time(clock: ManualClock) -> None:
    of_the_store = ManualClock()
    limiter = Limiter("1/s", key="own", backend=MemoryBackend(clock=of_the_store), clock=clock)
    assert limiter.hit()
    assert not limiter.hit()
    of_the_store.advance(1)
    assert limiter.hit()
