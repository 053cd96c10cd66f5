from __future__ import annotations

import heapq
import random
from bisect import bisect_left
from itertools import pairwise
from typing import Any

import pytest

from ratelimit_core import Limiter
from ratelimit_core._util.clock import SECOND
from ratelimit_core.backends import MemoryBackend
from ratelimit_core.limiter import Decision
from ratelimit_core.testing import ManualClock

from .conftest import RESERVING, MakeLimiter

BOUND = {"sliding_window": 10, "token_bucket": 20, "leaky_bucket": 11}
"""What may pass in any second at 10/s."""

every_way = pytest.mark.parametrize("algorithm", RESERVING)


def busiest(times: list[int], period: int = SECOND) -> int:
    """The most that happened in any interval of one period."""
    times = sorted(times)
    return max(bisect_left(times, at + period) - i for i, at in enumerate(times))


@every_way
def test_slots_are_given_one_after_the_other_at_the_rate(make: MakeLimiter, algorithm: str) -> None:
    limiter = make("10/s", algorithm=algorithm)
    while limiter.hit():
        pass
    waits = [limiter.reserve(60).retry_after for _ in range(30)]
    steps = [later - sooner for sooner, later in pairwise(waits)]
    assert steps == pytest.approx([0.1] * 29)


@every_way
def test_a_slot_is_there_when_it_was_promised_and_not_before(
    make: MakeLimiter, clock: ManualClock, algorithm: str
) -> None:
    limiter = make("2/s", algorithm=algorithm)
    while limiter.hit():
        pass
    slot = limiter.reserve(60)
    assert slot.allowed
    clock.advance(slot.retry_after - 0.000_001)
    early = limiter.redeem(slot)
    assert not early
    assert early.reservation_kept
    assert early.retry_after == 0.000_001
    clock.advance(early.retry_after)
    assert limiter.redeem(slot)


@every_way
def test_a_lease_id_is_redeemed_once_and_charged_again_after_that(
    make: MakeLimiter, clock: ManualClock, algorithm: str
) -> None:
    limiter = make("5/s", algorithm=algorithm)
    while limiter.hit():
        pass
    slot = limiter.reserve(60)
    clock.advance(slot.retry_after)
    limit = 1 if algorithm == "leaky_bucket" else 5
    runs = sum(bool(limiter.redeem(slot)) for _ in range(20))
    assert runs == (5 if algorithm == "sliding_window" else 1), "the others of the first second have ended with it"
    assert not limiter.hit(), "the repetitions have used up what was there"
    clock.advance(5)
    assert sum(bool(limiter.redeem(slot)) for _ in range(20)) == limit


@every_way
def test_room_at_once_is_taken_of_every_limit_and_redeems_without_asking(make: MakeLimiter, algorithm: str) -> None:
    limiter = make("2/s;3/m", algorithm=algorithm)
    slot = limiter.reserve(60)
    before = limiter.peek()
    assert (slot.retry_after, slot.consumed) == (0, True)
    assert limiter.redeem(slot) is slot
    assert limiter.peek() == before
    limiter.refund(slot)
    assert limiter.peek().remaining == limiter.peek().limit


@every_way
def test_a_slot_that_is_too_far_away_is_not_taken(make: MakeLimiter, clock: ManualClock, algorithm: str) -> None:
    limiter = make("1/s", algorithm=algorithm)
    assert limiter.hit()
    for _ in range(10):
        denied = limiter.reserve(0.999_999)
        assert not denied
        assert denied.retry_after == 1
    assert limiter.reserve(1).retry_after == 1
    assert limiter.reserve(10).retry_after == 2


@every_way
def test_a_floor_keeps_a_slot_away_until_then(make: MakeLimiter, algorithm: str) -> None:
    limiter = make("10/s", algorithm=algorithm)
    slots = [limiter.reserve(60, not_before=30) for _ in range(15)]
    assert all(slot.retry_after >= 30 for slot in slots)
    assert busiest([round(slot.retry_after * SECOND) for slot in slots]) <= BOUND[algorithm]
    assert not limiter.reserve(29, not_before=30)


@every_way
def test_hits_queue_behind_what_is_reserved(make: MakeLimiter, clock: ManualClock, algorithm: str) -> None:
    limiter = make("1/s", algorithm=algorithm)
    assert limiter.hit()
    slots = [limiter.reserve(60) for _ in range(3)]
    assert limiter.hit().retry_after == 4
    for slot in slots:
        clock.advance(1)
        assert not limiter.hit()
        assert limiter.redeem(slot)
    clock.advance(1)
    assert limiter.hit()


@every_way
def test_the_newest_slot_can_be_given_back(make: MakeLimiter, algorithm: str) -> None:
    limiter = make("1/s", algorithm=algorithm)
    assert limiter.hit()
    first, second = limiter.reserve(60), limiter.reserve(60)
    limiter.refund(second)
    assert limiter.reserve(60).retry_after == second.retry_after > first.retry_after


def test_a_bucket_winds_back_only_the_newest_slot(make: MakeLimiter) -> None:
    limiter = make("10/s", algorithm="token_bucket", burst=1)
    assert limiter.hit()
    slots = [limiter.reserve(60) for _ in range(10)]
    for slot in slots[:-1]:
        limiter.refund(slot)
    assert limiter.reserve(60).retry_after == pytest.approx(1.1)


@every_way
def test_refunds_in_any_order_never_make_slots_crowd(algorithm: Any) -> None:
    rng = random.Random(3)
    clock = ManualClock()
    limiter = Limiter("10/s", key="k", algorithm=algorithm, backend=MemoryBackend(clock=clock), clock=clock)
    held: dict[str, int] = {}
    for _ in range(600):
        if held and rng.random() < 0.4:
            lease_id = rng.choice(list(held))
            at = held.pop(lease_id)
            if at > clock():
                limiter.refund(Decision(True, 0, 0, 0.0, 0.0, lease_id=lease_id))
            else:
                held[lease_id] = at
        else:
            slot = limiter.reserve(60)
            held[slot.lease_id] = clock() + round(slot.retry_after * SECOND)
        clock.advance(rng.choice([0, 0, 0.01, 0.05]))
    assert busiest(list(held.values())) <= BOUND[algorithm]


# Several limits


def test_who_waits_for_a_slow_window_holds_nothing_of_a_quick_one(make: MakeLimiter, clock: ManualClock) -> None:
    limiter = make("2/s;3/m")
    assert limiter.hit(2)
    clock.advance(1)
    assert limiter.reserve(90).consumed
    slot = limiter.reserve(90)
    assert (slot.denied_by, slot.retry_after, slot.consumed) == (1, 59, False)
    assert make("2/s").peek().remaining == 1
    clock.advance(59)
    assert limiter.redeem(slot)
    assert make("2/s").peek().remaining == 1


def test_who_waits_for_a_quick_window_counts_in_a_slow_one(make: MakeLimiter, clock: ManualClock) -> None:
    limiter, slow = make("2/s;5/m"), make("5/m")
    assert limiter.hit(2)
    slots = [limiter.reserve(90) for _ in range(2)]
    assert [(slot.denied_by, slot.retry_after) for slot in slots] == [(0, 1), (0, 1.5)]
    assert slow.peek().remaining == 1
    limiter.refund(slots.pop())
    assert slow.peek().remaining == 2
    clock.advance(1)
    assert limiter.redeem(slots[0])
    assert slow.peek().remaining == 2


def test_who_missed_a_quick_slot_keeps_the_slow_one(make: MakeLimiter, clock: ManualClock) -> None:
    limiter, slow = make("2/s;5/m"), make("5/m")
    assert limiter.hit(2)
    slot = limiter.reserve(90)
    clock.advance(30)
    assert slow.hit(2)
    assert make("2/s").hit(2)
    denied = limiter.redeem(slot)
    assert (denied.allowed, denied.denied_by, denied.reservation_kept) == (False, 0, False)
    slot = limiter.reserve(90, denied_by=0, lease_id=slot.lease_id)
    assert slot.retry_after == 1
    assert slow.peek().remaining == 0
    clock.advance(1)
    assert limiter.redeem(slot)


def test_of_several_buckets_only_that_which_makes_wait_longest_is_reserved(
    make: MakeLimiter, clock: ManualClock
) -> None:
    limiter = make("2/s;3/m", algorithm="token_bucket")
    assert limiter.hit(2)
    clock.advance(1)
    assert limiter.reserve(90).consumed
    slot = limiter.reserve(90)
    assert (slot.denied_by, slot.retry_after, slot.consumed) == (1, 19, False)
    assert make("2/s", algorithm="token_bucket").peek().remaining == 1


def test_what_is_too_far_away_in_one_window_is_reserved_in_none(make: MakeLimiter) -> None:
    limiter, fast = make("2/s;3/m"), make("2/s")
    assert make("3/m").hit(3)
    assert not limiter.reserve(30)
    assert fast.peek().remaining == 2
    assert not limiter.reserve(30, denied_by=0)
    assert fast.peek().remaining == 2


@pytest.mark.parametrize("used", [False, True])
def test_who_waits_for_two_rates_runs_at_the_slower_one(make: MakeLimiter, clock: ManualClock, used: bool) -> None:
    """As tasks do that come all at once and wait for their slots; they may have the name of one that was used."""
    limiter, began = make("1/s;30/m"), clock()
    ran: list[int] = []
    waiting = [(began, 0, i, Decision(used, 0, 0, 0.0, 0.0, lease_id=f"{i}")) for i in range(90)]
    while waiting:
        at, turn, i, slot = heapq.heappop(waiting)
        clock.now = max(clock.now, at)
        decision = limiter.redeem(slot) if slot.allowed else limiter.hit()
        if decision.allowed:
            ran.append(clock())
            continue
        if not decision.reservation_kept:
            decision = slot = limiter.reserve(86400, denied_by=decision.denied_by, lease_id=slot.lease_id)
            assert slot.allowed
        heapq.heappush(waiting, (clock() + round(decision.retry_after * SECOND), turn + 1, i, slot))
    assert busiest(ran) == 1
    assert busiest(ran, 60 * SECOND) == 30
    assert ran[-1] - began < (90 / 30 + 1) * 60 * SECOND
    assert max(later - earlier for earlier, later in pairwise(ran)) <= 31 * SECOND


def test_a_slot_is_kept_while_another_limit_denies(make: MakeLimiter, clock: ManualClock) -> None:
    limiter, fast = make("2/s;3/m"), make("2/s")
    assert make("3/m").hit(3)
    slot = limiter.reserve(90)
    assert (slot.denied_by, slot.retry_after) == (1, 60)
    clock.advance(60)
    assert fast.hit(2)
    denied = limiter.redeem(slot)
    assert (denied.allowed, denied.denied_by, denied.retry_after) == (False, 0, 1)
    clock.advance(0.5)
    assert not limiter.redeem(slot)
    clock.advance(0.5)
    assert limiter.redeem(slot)


def test_no_slot_is_given_while_all_places_to_run_are_taken(make: MakeLimiter) -> None:
    limiter = make("10/s", concurrency=1)
    with limiter:
        denied = limiter.reserve(60)
        assert not denied
        assert denied.denied_by == 1
        assert make("10/s").peek().remaining == 9
    assert limiter.reserve(60).consumed


def test_a_slot_of_one_limit_is_given_back_to_that_one_alone(make: MakeLimiter) -> None:
    limiter = make("2/s;3/m", algorithm="token_bucket")
    assert limiter.hit(2)
    slot = limiter.reserve(90, denied_by=1)
    assert slot.retry_after == 0
    assert not slot.consumed
    limiter.refund(slot)
    assert make("2/s", algorithm="token_bucket").peek().remaining == 0


def test_a_slot_that_no_limit_of_ours_gave_is_a_hit(make: MakeLimiter) -> None:
    limiter = make("2/s")
    for which in (-1, 7):
        assert limiter.redeem(Decision(True, 0, 0, 0.0, 0.0, lease_id="stranger", denied_by=which))
    assert not limiter.hit()


# Workers away, late, early, twice


def queue(limiter: Limiter, length: int) -> list[Decision]:
    while limiter.hit():
        pass
    return [limiter.reserve(3600) for _ in range(length)]


def drain(limiter: Limiter, clock: ManualClock, slots: list[Decision], lateness: random.Random) -> list[int]:
    """Redeem all, each when it is due and somewhat late, as often as it is told to wait; when each ran."""
    ran: list[int] = []
    due = [(clock() + round((slot.retry_after + lateness.random()) * SECOND), i) for i, slot in enumerate(slots)]
    heapq.heapify(due)
    while due:
        at, i = heapq.heappop(due)
        clock.now = max(clock.now, at)
        decision = limiter.redeem(slots[i])
        if not decision and not decision.reservation_kept:
            decision = slots[i] = limiter.reserve(3600, denied_by=decision.denied_by)
            if decision.consumed:
                ran.append(clock())
                continue
        elif decision:
            ran.append(clock())
            continue
        heapq.heappush(due, (clock() + max(1, round((decision.retry_after + lateness.random() / 10) * SECOND)), i))
    return ran


def test_workers_away_for_longer_than_the_queue_run_no_more_than_the_limit(
    make: MakeLimiter, clock: ManualClock
) -> None:
    limiter = make("10/s")
    slots = queue(limiter, 600)
    assert slots[-1].retry_after == pytest.approx(60, abs=1)
    clock.advance(120)
    ran = drain(limiter, clock, slots, random.Random(5))
    assert len(ran) == 600
    assert busiest(ran) <= 10


def test_workers_away_for_a_part_of_the_queue_run_no_more_than_the_limit(make: MakeLimiter, clock: ManualClock) -> None:
    limiter = make("10/s")
    slots = queue(limiter, 300)
    clock.advance(15)
    ran = drain(limiter, clock, slots, random.Random(5))
    assert len(ran) == 300
    assert busiest(ran) <= 10


@pytest.mark.parametrize(("algorithm", "bound"), [("token_bucket", 20), ("leaky_bucket", 11)])
def test_late_slots_of_a_bucket_add_what_fits_into_the_tolerance(
    make: MakeLimiter, clock: ManualClock, algorithm: str, bound: int
) -> None:
    limiter = make("10/s", algorithm=algorithm)
    slots = queue(limiter, 300)
    clock.advance(60)
    ran = drain(limiter, clock, slots, random.Random(5))
    assert len(ran) == 300
    assert busiest(ran) <= bound + 3  # a quarter of a second at 10/s


def test_a_slow_limit_gives_a_slot_one_spacing_of_tolerance(make: MakeLimiter, clock: ManualClock) -> None:
    limiter = make("6/m", algorithm="leaky_bucket")
    assert limiter.hit()
    slot = limiter.reserve(60)
    clock.advance(slot.retry_after + 9.9)
    assert limiter.redeem(slot)
    slot = limiter.reserve(60)
    clock.advance(slot.retry_after + 10)
    ours = limiter.redeem(slot)
    assert ours.consumed
    assert not limiter.hit()  # it came too late and was charged again
