"""What each policy promises, over the reference store: how many may pass, how long to wait, and how it trips."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimit_core.backends import Call
from ratelimit_core.policies import (
    ALLOWED,
    ANSWER,
    BREAKER,
    CONCURRENCY,
    EXPIRES,
    FIXED_WINDOW,
    LIMITS,
    OTHER_ANSWER,
    PLACE,
    POLICIES,
    RECORD,
    SLIDING_WINDOW,
    SLIDING_WINDOW_COUNTER,
    TOKEN_BUCKET,
    WAIT,
    Policy,
    Verdict,
)
from ratelimit_core.policies.circuit_breaker import ASK, CLOSED, FORCE, HALF_OPEN, OPEN, REPORT
from ratelimit_core.policies.circuit_breaker import PEEK as LOOK
from ratelimit_core.policies.place import LEAVE, TAKE, TOUCH, TURN
from ratelimit_core.policies.place import PEEK as SEE
from ratelimit_core.policies.token_bucket import HIT, PEEK, REDEEM, REFUND, RESERVE
from ratelimit_core.testing import ManualClock

from .profiles import examples
from .reference import Reference
from .scenarios import Config, Step, scenarios

KEY = ("name", "")
AGES = 10**12


class One:
    """One record of one policy, and a clock."""

    def __init__(self, policy: Policy, **config: int) -> None:
        self.policy = policy
        self.config = config
        self.clock = ManualClock()
        self.store = Reference(self.clock)

    def ask(self, op: int, lease_id: str = "", **event: int) -> Verdict:
        most = self.config.get("limit", self.config.get("burst", 0))
        cost = event.get("cost", 1)
        values = {"op": op, "cost": cost, "spare_leases": most - cost, "not_before": 0, "max_wait": AGES, **event}
        asked = tuple(values.get(name, 0) for name in self.policy.event)
        config = tuple(self.config[name] for name in self.policy.config)
        return self.store.apply([Call(self.policy, KEY, asked, config, lease_id)])[0]

    def held(self, lease_id: str) -> int:
        """When the lease of this lease id ends, or 0."""
        leases = self.store.state(self.policy, KEY).leases
        return next((lease.ends for lease in leases if lease.owner == lease_id), 0)


@dataclass
class Ran:
    """What really ran, and when; by whom, while it may still be given back or moved."""

    times: dict[int, tuple[int, int]] = field(default_factory=dict)
    of: dict[str, int] = field(default_factory=dict)
    numbers: Iterable[int] = field(default_factory=itertools.count)

    def run(self, now: int, cost: int, lease_id: str = "") -> None:
        number = next(iter(self.numbers))
        self.times[number] = now, cost
        if lease_id:
            self.of[lease_id] = number

    def take_back(self, lease_id: str) -> None:
        if lease_id in self.of:
            del self.times[self.of.pop(lease_id)]

    def most_within(self, period: int) -> int:
        ran = list(self.times.values())
        return max((sum(c for t, c in ran if start <= t < start + period) for start, _ in ran), default=0)


moves = st.lists(
    st.tuples(
        st.sampled_from([0, 0, 0, 1, 1, 2, 3, 5, 8, 13]),
        st.sampled_from([HIT, HIT, HIT, PEEK, REFUND, RESERVE, RESERVE, REDEEM, REDEEM]),
        st.sampled_from(["a", "b", "c", "d", "e"]),
        st.sampled_from([0, 0, 0, 4]),
    ),
    max_size=60,
)
COST = {"a": 1, "b": 1, "c": 1, "d": 2, "e": 3}


@examples(400)
@given(moves, st.integers(1, 5), st.integers(1, 12), st.integers(1, 4))
def test_a_sliding_window_never_lets_more_than_the_limit_run_in_any_period(
    moves: list[tuple[int, int, str, int]], limit: int, period: int, spacing: int
) -> None:
    one = One(SLIDING_WINDOW, limit=limit, period=period, spacing=spacing)
    ran = Ran()
    for elapsed, op, lease_id, floor in moves:
        one.clock.now += elapsed
        now, cost, held = one.clock.now, min(limit, COST[lease_id]), one.held(lease_id)
        verdict = one.ask(op, lease_id, cost=cost, not_before=floor)
        if not verdict[ALLOWED]:
            continue
        if op == HIT:
            ran.run(now, cost, lease_id)
        elif op == RESERVE:
            assert verdict[WAIT] >= floor
            if not now + period < held:  # else what is moved is a slot, and nothing has run
                ran.of.pop(lease_id, None)
        elif op == REDEEM:
            if held:
                ran.take_back(lease_id)  # the hit is moved to now
            ran.run(now, cost)
        elif op == REFUND and held:
            ran.take_back(lease_id)
    assert ran.most_within(period) <= limit


@examples(400)
@given(moves, st.integers(1, 5), st.integers(1, 4))
def test_a_sliding_window_counter_never_lets_more_than_the_limit_run_in_any_period(
    moves: list[tuple[int, int, str, int]], limit: int, quarter: int
) -> None:
    one = One(SLIDING_WINDOW_COUNTER, limit=limit, quarter=quarter)
    ran = Ran()
    for elapsed, op, lease_id, _ in moves:
        one.clock.now += elapsed
        now, cost = one.clock.now, min(limit, COST[lease_id])
        if op == REFUND:
            if lease_id in ran.of and now - ran.times[ran.of[lease_id]][0] < 4 * quarter:
                one.ask(REFUND, cost=cost)
                ran.take_back(lease_id)
        elif one.ask(HIT, cost=cost)[ALLOWED]:
            ran.run(now, cost, lease_id)
    assert ran.most_within(4 * quarter) <= limit


@examples(400)
@given(moves, st.integers(1, 5), st.integers(1, 12))
def test_a_fixed_window_lets_at_most_twice_the_limit_run_in_any_period(
    moves: list[tuple[int, int, str, int]], limit: int, period: int
) -> None:
    one = One(FIXED_WINDOW, limit=limit, period=period)
    ran = Ran()
    window = 0
    for elapsed, op, lease_id, _ in moves:
        one.clock.now += elapsed
        now, cost = one.clock.now, min(limit, COST[lease_id])
        if op == REFUND:
            if lease_id in ran.of and ran.times[ran.of[lease_id]][0] >= window > now - period:
                one.ask(REFUND, cost=cost)
                ran.take_back(lease_id)
            continue
        verdict = one.ask(HIT, cost=cost)
        if verdict[ALLOWED]:
            window = verdict[RECORD]
            ran.run(now, cost, lease_id)
            assert sum(c for t, c in ran.times.values() if t >= window) <= limit
    assert ran.most_within(period) <= 2 * limit


@examples(400)
@given(moves, st.integers(1, 5), st.integers(1, 4), st.integers(1, 5), st.integers(1, 6))
def test_a_token_bucket_lets_at_most_burst_and_limit_run_in_any_period_and_late_reservations_on_top(
    moves: list[tuple[int, int, str, int]], burst: int, interval: int, limit: int, tolerance: int
) -> None:
    one = One(TOKEN_BUCKET, burst=burst, interval=interval, tolerance=tolerance)
    ran = Ran()
    reserved = False
    for elapsed, op, lease_id, floor in moves:
        one.clock.now += elapsed
        now, cost, held = one.clock.now, min(burst, COST[lease_id]), one.held(lease_id)
        if op == REFUND and not held:
            if lease_id in ran.of and now - ran.times[ran.of[lease_id]][0] < cost * interval:
                one.ask(REFUND, lease_id, cost=cost)
                ran.take_back(lease_id)
            continue
        verdict = one.ask(op, lease_id, cost=cost, not_before=floor)
        if not verdict[ALLOWED]:
            continue
        reserved |= op == RESERVE
        if op in (HIT, REDEEM):
            ran.run(now, cost, "" if op == REDEEM and held else lease_id)
    late = -(-tolerance // interval) if reserved else 0
    assert ran.most_within(limit * interval) <= burst + limit + late


@examples(300)
@given(
    st.lists(
        st.tuples(st.sampled_from([0, 0, 1, 2, 5]), st.sampled_from([HIT, HIT, PEEK, REFUND]), st.sampled_from("abcde"))
    ),
    st.integers(1, 5),
    st.integers(1, 8),
)
def test_concurrency_is_never_above_the_limit(moves: list[tuple[int, int, str]], limit: int, timeout: int) -> None:
    one = One(CONCURRENCY, limit=limit, timeout=timeout)
    running: dict[str, tuple[int, int]] = {}
    for elapsed, op, lease_id in moves:
        one.clock.now += elapsed
        now, cost = one.clock.now, min(limit, COST[lease_id])
        running = {name: (ends, n) for name, (ends, n) in running.items() if ends > now}
        verdict = one.ask(op, lease_id, cost=cost)
        if op == HIT and verdict[ALLOWED]:
            running[lease_id] = now + timeout, cost
        elif op == REFUND:
            running.pop(lease_id, None)
        in_use = sum(n for _, n in running.values())
        assert in_use <= limit
        assert in_use == len(one.store.state(CONCURRENCY, KEY).leases)
        assert verdict[ANSWER] == limit - in_use or not verdict[ALLOWED]
        if op == HIT and not verdict[ALLOWED]:
            assert in_use + cost > limit, "refused only for want of room"


@pytest.mark.parametrize("policy", LIMITS, ids=lambda policy: policy.name)
def test_waiting_as_long_as_told_is_enough_when_nobody_else_comes(policy: Policy) -> None:
    @examples(200)
    @given(scenarios(policy, 1))
    def check(scenario: tuple[Config, list[Step]]) -> None:
        config, steps = scenario
        one = One(policy, **config)
        for step in steps:
            one.clock.now += step.elapsed
            one.store.apply([step.call(policy, KEY, config, one.store)])
        cost = config.get("limit", config.get("burst", 1))
        told = one.ask(PEEK, cost=cost)
        verdict = one.ask(HIT, "new", cost=cost)
        assert (verdict[ALLOWED], verdict[WAIT]) == (told[ALLOWED], told[WAIT])
        assert verdict[ALLOWED] == (verdict[WAIT] == 0)
        if not verdict[ALLOWED]:
            one.clock.now += verdict[WAIT] - 1
            assert not one.ask(HIT, "new", cost=cost)[ALLOWED], "and no longer than needed"
            one.clock.now += 1
            assert one.ask(HIT, "new", cost=cost)[ALLOWED]

    check()


@pytest.mark.parametrize("policy", LIMITS, ids=lambda policy: policy.name)
def test_after_the_time_told_all_is_back(policy: Policy) -> None:
    @examples(100)
    @given(scenarios(policy, 1))
    def check(scenario: tuple[Config, list[Step]]) -> None:
        config, steps = scenario
        one = One(policy, **config)
        most = config.get("limit", config.get("burst", 1))
        for step in steps:
            one.clock.now += step.elapsed
            one.store.apply([step.call(policy, KEY, config, one.store)])
        one.clock.now += one.ask(PEEK)[OTHER_ANSWER] if policy is not CONCURRENCY else config["timeout"] + AGES * 100
        assert one.ask(PEEK)[ANSWER] == most

    check()


@pytest.mark.parametrize("policy", [SLIDING_WINDOW, TOKEN_BUCKET], ids=lambda policy: policy.name)
@given(st.lists(st.sampled_from([0, 0, 1, 3]), min_size=1, max_size=30), st.integers(1, 4), st.integers(1, 3))
@examples(100)
def test_who_comes_at_the_reserved_time_is_let_through(
    policy: Policy, arrivals: list[int], limit: int, spacing: int
) -> None:
    period = limit * spacing
    every = {"limit": limit, "burst": limit, "period": period, "spacing": spacing, "interval": spacing, "tolerance": 1}
    one = One(policy, **{name: every[name] for name in policy.config})
    due = []
    for i, elapsed in enumerate(arrivals):
        one.clock.now += elapsed
        due.append((one.clock.now + one.ask(RESERVE, str(i))[WAIT], str(i)))
    assert due == sorted(due, key=lambda slot: slot[0]), "first come, first served"
    begun = one.clock.now
    for slot, lease_id in due:
        if slot >= begun:
            if slot > one.clock.now:
                one.clock.now = slot - 1
                assert one.ask(REDEEM, lease_id)[ALLOWED:EXPIRES][WAIT] == 1, "not before its time"
            one.clock.now = slot
            assert one.ask(REDEEM, lease_id)[ALLOWED]


@pytest.mark.parametrize("policy", [SLIDING_WINDOW, TOKEN_BUCKET], ids=lambda policy: policy.name)
def test_a_lease_id_is_good_once_and_not_for_ever(policy: Policy) -> None:
    every = {"limit": 2, "burst": 2, "period": 20, "spacing": 10, "interval": 10, "tolerance": 5}
    one = One(policy, **{name: every[name] for name in policy.config})
    for i in range(2):
        assert one.ask(HIT, str(i))[ALLOWED]
    wait = one.ask(RESERVE, "t")[WAIT]
    late = one.ask(RESERVE, "late")[WAIT]
    one.clock.now += wait
    assert one.ask(REDEEM, "t")[ALLOWED]
    assert not one.ask(REDEEM, "t")[ALLOWED], "a second time it is a new hit, and there is no room"
    one.clock.now += late + 100
    allowed = [one.ask(REDEEM, "late")[ALLOWED] for _ in range(4)]
    assert allowed == [1, 1, 0, 0], "too late it is a new hit, each time"


def test_a_slot_waits_for_room_if_the_one_before_it_was_redeemed_late() -> None:
    one = One(SLIDING_WINDOW, limit=1, period=10, spacing=10)
    assert one.ask(HIT, "hit")[ALLOWED]
    assert [one.ask(RESERVE, lease_id)[WAIT] for lease_id in "ab"] == [10, 20]
    one.clock.now += 14
    assert one.ask(REDEEM, "a")[ALLOWED]
    one.clock.now += 6
    assert one.ask(REDEEM, "b")[WAIT] == 4
    assert one.held("b"), "and is kept"
    one.clock.now += 4
    assert one.ask(REDEEM, "b")[ALLOWED]


def test_a_lease_id_that_hits_again_counts_again() -> None:
    one = One(SLIDING_WINDOW, limit=3, period=10, spacing=1)
    assert [one.ask(HIT, "t")[ALLOWED] for _ in range(4)] == [1, 1, 1, 0]


def test_a_place_is_held_longer_by_asking_again_with_its_lease_id_and_not_taken_twice() -> None:
    one = One(CONCURRENCY, limit=2, timeout=10)
    for _ in range(5):
        assert one.ask(HIT, "t")[ANSWER] == 1
        one.clock.now += 9
    assert one.ask(HIT, "u")[ANSWER] == 0


def test_who_finds_no_place_is_told_when_there_is_room_for_what_it_costs() -> None:
    one = One(CONCURRENCY, limit=2, timeout=10)
    for lease_id in "ab":
        assert one.ask(HIT, lease_id)[:EXPIRES] == (1, 0, 1 if lease_id == "a" else 0, 0)
        one.clock.now += 4
    assert one.ask(HIT, "c")[:EXPIRES] == (0, 2, 0, 2)
    assert one.ask(PEEK, "c", cost=2)[:EXPIRES] == (0, 6, 0, 6)


def test_refunding_the_newest_future_slot_gives_it_to_the_next() -> None:
    one = One(TOKEN_BUCKET, interval=10, burst=1, tolerance=5)
    waits = [one.ask(RESERVE, str(i))[WAIT] for i in range(4)]
    assert waits == [0, 10, 20, 30]
    one.ask(REFUND, "3")
    assert one.ask(RESERVE, "4")[WAIT] == 30
    one.ask(REFUND, "1")
    assert one.ask(RESERVE, "5")[WAIT] == 40, "a slot in the middle is forfeited"


@pytest.mark.parametrize(("hits", "floor", "full_in"), [(2, 0, 20), (0, 50, 50)], ids=["when free", "later"])
def test_refunding_the_last_slot_gives_its_token_back(hits: int, floor: int, full_in: int) -> None:
    one = One(TOKEN_BUCKET, interval=10, burst=2, tolerance=5)
    for _ in range(hits):
        assert one.ask(HIT)[ALLOWED]
    assert one.ask(RESERVE, "t", not_before=floor)[OTHER_ANSWER] == full_in + 10
    assert one.ask(REFUND, "t")[OTHER_ANSWER] == full_in


def test_a_lease_id_that_reserves_again_has_one_slot() -> None:
    one = One(TOKEN_BUCKET, interval=10, burst=1, tolerance=5)
    assert [one.ask(RESERVE, "t")[WAIT] for _ in range(3)] == [0, 10, 20]
    assert [lease.ends for lease in one.store.state(TOKEN_BUCKET, KEY).leases] == [one.clock.now + 25]


def test_a_refund_takes_its_cost_from_the_slices_and_no_more() -> None:
    one = One(SLIDING_WINDOW_COUNTER, limit=5, quarter=10)
    one.ask(HIT)
    for _ in range(4):
        one.clock.now += 10
        one.ask(HIT)
    assert [one.ask(REFUND)[ANSWER] for _ in range(5)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("elapsed", [0, 9, 10, 19, 20, 29, 30, 39, 40, 49])
def test_a_hit_is_counted_for_five_slices_from_the_beginning_of_its_own(elapsed: int) -> None:
    one = One(SLIDING_WINDOW_COUNTER, limit=5, quarter=10)
    one.ask(HIT)
    one.clock.now += elapsed
    verdict = one.ask(PEEK)
    assert (verdict[ANSWER], verdict[OTHER_ANSWER]) == (4, 50 - elapsed)


@pytest.mark.parametrize(("now", "allowed"), [(49, 0), (50, 1)])
def test_what_a_store_keeps_for_longer_than_it_counts_is_void(now: int, allowed: int) -> None:
    verdict = SLIDING_WINDOW_COUNTER.decide(0, 3, 0, 0, 0, 0, HIT, 1, now, limit=3, quarter=10)
    assert verdict[ALLOWED] == allowed


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_what_is_stored_outlasts_now_and_a_look_changes_nothing(policy: Policy) -> None:
    @examples(150)
    @given(scenarios(policy, 1))
    def check(scenario: tuple[Config, list[Step]]) -> None:
        config, steps = scenario
        one = One(policy, **config)
        for step in steps:
            one.clock.now += step.elapsed
            before = one.store.state(policy, KEY)
            verdict = one.store.apply([step.call(policy, KEY, config, one.store)])[0]
            assert verdict[ALLOWED] in (0, 1)
            assert verdict[WAIT] >= 0
            if policy is PLACE and step.event[0] == LEAVE and verdict[ALLOWED]:
                assert verdict[EXPIRES] == one.clock.now
            elif policy.record:
                assert verdict[EXPIRES] == 0 or verdict[EXPIRES] > one.clock.now
            if step.event[0] == {BREAKER: LOOK, PLACE: SEE}.get(policy, PEEK):
                assert one.store.state(policy, KEY) == before
            assert all(abs(value) < 2**53 for value in verdict)

    check()


# The place


class Place(One):
    """One place, of which the tests know the record."""

    def __init__(self, keep: int = 1000) -> None:
        super().__init__(PLACE, keep=keep)

    def holder(self) -> int:
        return (self.store.state(PLACE, KEY).record or (0,))[0]

    def leave(self, who: int, margin: int = 0) -> tuple[int, int]:
        """Return whether the place was left, and the wait."""
        verdict = self.ask(LEAVE, caller=who, margin=margin)
        return verdict[ALLOWED], verdict[WAIT]

    def turn(self, who: int, margin: int) -> int:
        """Return the time of the turn."""
        verdict = self.ask(TURN, caller=who, margin=margin)
        assert verdict[ALLOWED]
        return self.clock.now + verdict[WAIT]


BACK = [1, 7, 10**6, AGES]
asked_of_a_place = st.tuples(
    st.sampled_from([0, 0, 0, 1, 2, 5, 40]),
    st.sampled_from([SEE, TAKE, TAKE, TOUCH, LEAVE, TURN]),
    st.integers(1, 3),
    st.sampled_from([0, 1, 3, 50]),
)


@examples(400)
@given(st.lists(asked_of_a_place, max_size=60), st.integers(1, 30))
def test_a_place_has_at_most_one_holder_which_every_verdict_names(
    asked: list[tuple[int, int, int, int]], keep: int
) -> None:
    one = Place(keep)
    holder, taken, touched, noted = 0, 0, 0, 0
    for elapsed, op, who, margin in asked:
        one.clock.now += elapsed
        now = one.clock.now
        if now >= noted + keep:
            holder = 0
        verdict = one.ask(op, caller=who, margin=margin)
        if op == SEE:
            assert verdict[ALLOWED] == (holder == 0)
        elif op == TAKE:
            assert verdict[ALLOWED] == (holder in (0, who))
            taken = now if holder == 0 else taken
            holder = holder or who
        elif op == LEAVE:
            assert verdict[ALLOWED] == (holder == who and now >= touched + margin)
            holder = 0 if verdict[ALLOWED] else holder
        else:
            assert verdict[ALLOWED]
        if holder == who and op in (TAKE, TOUCH):
            touched = now
        if holder == who and op in (TAKE, TOUCH, TURN):
            noted = now
        assert verdict[ANSWER:EXPIRES] == (holder, now - taken if holder else 0)
        assert one.holder() == holder
        assert one.store.keys(PLACE) == ({KEY} if holder else set())


def test_a_place_that_is_taken_is_denied_to_others_and_says_who_has_it_and_since_when() -> None:
    one = Place()
    assert one.ask(SEE)[:EXPIRES] == (1, 0, 0, 0)
    assert one.ask(TAKE, caller=7)[:EXPIRES] == (1, 0, 7, 0)
    one.clock.now += 20
    assert one.ask(TAKE, caller=8)[:EXPIRES] == (0, 0, 7, 20)
    assert one.ask(SEE)[:EXPIRES] == (0, 0, 7, 20)
    for op, allowed in ((TOUCH, 1), (TURN, 1), (LEAVE, 0)):
        assert one.ask(op, caller=8)[:EXPIRES] == (allowed, 0, 7, 20)
    assert one.leave(7) == (1, 0)
    for op, allowed in ((TOUCH, 1), (TURN, 1), (LEAVE, 0)):
        assert one.ask(op, caller=7)[:EXPIRES] == (allowed, 0, 0, 0), "nobody has it"
    assert one.ask(TAKE, caller=8)[:EXPIRES] == (1, 0, 8, 0)


@pytest.mark.parametrize("op", [TAKE, TOUCH])
def test_a_place_that_was_touched_can_be_left_after_the_margin_and_no_sooner(op: int) -> None:
    one = Place()
    one.ask(TAKE, caller=7)
    one.clock.now += 4
    assert one.leave(7, margin=10) == (0, 6)
    assert one.ask(op, caller=7)[:EXPIRES] == (1, 0, 7, 4), "taken as long ago as before"
    assert one.leave(7, margin=10) == (0, 10)
    one.clock.now += 9
    one.turn(7, margin=3)
    assert one.leave(7, margin=10) == (0, 1), "a turn does not touch"
    one.clock.now += 1
    assert one.leave(7, margin=10) == (1, 0)
    assert one.holder() == 0


def test_turns_are_a_margin_apart_whoever_asks_and_after_a_pause_the_next_is_now() -> None:
    one = Place()
    one.ask(TAKE, caller=7)
    begun = one.clock.now
    assert [one.turn(7, margin=10) - begun for _ in range(4)] == [0, 10, 20, 30]
    one.clock.now += 15
    assert one.turn(7, margin=10) - begun == 40
    one.clock.now += 35
    assert one.turn(7, margin=10) - begun == 50, "no sooner than a margin after the last"
    one.clock.now += 500
    assert [one.turn(7, margin=10) - one.clock.now for _ in range(2)] == [0, 10]


@examples(200)
@given(
    st.lists(st.tuples(st.sampled_from([0, 0, 1, 4, 30]), st.sampled_from([SEE, TAKE, TOUCH, TURN, TURN])), max_size=40)
)
def test_turns_are_a_margin_apart_whatever_else_is_asked(asked: list[tuple[int, int]]) -> None:
    one = Place()
    one.ask(TAKE, caller=7)
    turns: list[int] = []
    for elapsed, op in asked:
        one.clock.now += elapsed
        if op == TURN:
            turns.append(one.turn(7, margin=5))
        else:
            one.ask(op, caller=7)
    assert all(later - sooner >= 5 for sooner, later in itertools.pairwise(turns))


@pytest.mark.parametrize("holder", [0, 7])
def test_a_turn_for_another_holder_is_allowed_and_changes_nothing(holder: int) -> None:
    one = Place()
    if holder:
        one.ask(TAKE, caller=holder)
        one.turn(holder, margin=10)
    before = one.store.state(PLACE, KEY)
    for _ in range(3):
        assert one.ask(TURN, caller=8, margin=10)[:EXPIRES] == (1, 0, holder, 0)
    assert one.store.state(PLACE, KEY) == before
    if holder:
        assert one.turn(holder, margin=10) - one.clock.now == 10


@pytest.mark.parametrize(("op", "longer"), [(TAKE, 90), (TOUCH, 90), (TURN, 90), (SEE, 0)])
def test_a_place_that_its_holder_does_not_ask_for_ends_after_keep(op: int, longer: int) -> None:
    one = Place(keep=100)
    one.ask(TAKE, caller=7)
    one.clock.now += 90
    for who in (7, 8):
        one.ask(op, caller=who, margin=1)
    one.clock.now += 9 + longer
    assert one.holder() == 7
    one.clock.now += 1
    assert one.ask(SEE)[:EXPIRES] == (1, 0, 0, 0)
    assert one.ask(TAKE, caller=8)[:EXPIRES] == (1, 0, 8, 0)


@pytest.mark.parametrize("back", BACK)
def test_a_clock_that_goes_back_frees_no_place(back: int) -> None:
    one = Place(keep=100)
    one.ask(TAKE, caller=7)
    one.clock.now -= back
    assert one.ask(TAKE, caller=8)[:EXPIRES] == (0, 0, 7, 0)
    for _ in range(3):
        assert one.leave(7, margin=10) == (0, 10), "what was noted in the future counts as noted now"
        one.clock.now += min(10, back // 3)


@pytest.mark.parametrize("op", [TAKE, TOUCH, TURN])
@pytest.mark.parametrize("back", BACK)
def test_after_the_clock_went_back_a_place_can_be_left_a_margin_after_its_holder_has_asked(back: int, op: int) -> None:
    one = Place(keep=100)
    one.ask(TAKE, caller=7)
    one.clock.now -= back
    one.ask(op, caller=7, margin=1)
    one.clock.now += 9
    assert one.leave(7, margin=10) == (0, 1)
    one.clock.now += 1
    assert one.leave(7, margin=10) == (1, 0)


@pytest.mark.parametrize("back", BACK)
def test_a_clock_that_goes_back_takes_the_turns_with_it(back: int) -> None:
    one = Place()
    one.ask(TAKE, caller=7)
    one.clock.now += 300
    assert [one.turn(7, margin=10) - one.clock.now for _ in range(3)] == [0, 10, 20]
    one.clock.now -= back
    assert [one.turn(7, margin=10) - one.clock.now for _ in range(2)] == [30, 40]
    one.clock.now -= back
    one.ask(TOUCH, caller=7)
    assert one.turn(7, margin=10) - one.clock.now == 50, "also if the holder asked for something else meanwhile"


# The breaker

DEFAULTS = {
    "failure_threshold": 5,
    "success_threshold": 1,
    "spare_probes": 0,
    "recovery_timeout": 60,
    "backoff_permille": 2000,
    "max_interval": 300,
    "reset_timeout": 300,
    "probe_timeout": 60,
    "record_ttl": 86_400,
    "window": 0,
    "minimum_calls": 10,
    "failure_permille": 0,
    "slow_permille": 0,
    "slow_start": 0,
    "shadow": 0,
    "fingerprint": 7,
}


class Breaker(One):
    def __init__(self, **config: int) -> None:
        super().__init__(BREAKER, **{**DEFAULTS, **config})
        self.generation = 0
        self.state = CLOSED

    def ask(self, op: int, lease_id: str = "", **event: int) -> Verdict:
        verdict = super().ask(op, lease_id, **{"generation": self.generation, **event})
        self.state, self.generation = verdict[RECORD : RECORD + 2]
        return verdict

    def trip(self) -> None:
        while self.state == CLOSED:
            self.ask(REPORT, failures=1)
        assert self.state == OPEN

    def probe(self) -> None:
        """Wait as long as told, and be let through."""
        wait = self.ask(ASK, "probe")[WAIT]
        self.clock.now += wait
        assert self.ask(ASK, "probe")[ALLOWED]
        assert self.state == HALF_OPEN


def test_it_opens_at_the_threshold_of_consecutive_failures() -> None:
    breaker = Breaker()
    for _ in range(4):
        breaker.ask(REPORT, failures=1)
    breaker.clock.now += 1
    breaker.ask(ASK, successes=1)
    for _ in range(4):
        breaker.ask(REPORT, failures=1)
    assert breaker.state == CLOSED
    breaker.ask(REPORT, failures=1)
    assert breaker.state == OPEN


def test_a_success_resets_the_count_only_if_it_is_newer_than_the_last_failure() -> None:
    breaker = Breaker(failure_threshold=2)
    breaker.ask(REPORT, failures=1)
    breaker.clock.now += 10
    breaker.ask(ASK, successes=7, success_age=10)
    assert breaker.ask(REPORT, failures=1)[RECORD] == OPEN
    breaker = Breaker(failure_threshold=2)
    breaker.ask(REPORT, failures=1)
    breaker.clock.now += 10
    breaker.ask(ASK, successes=7, success_age=9)
    assert breaker.ask(REPORT, failures=1)[RECORD] == CLOSED


def test_the_wait_grows_once_per_opening() -> None:
    breaker = Breaker()
    breaker.trip()
    waits = []
    for _ in range(5):
        for _ in range(20):  # in flight at the moment of opening
            breaker.ask(REPORT, failures=1)
        waits.append(breaker.ask(ASK)[WAIT])
        breaker.probe()
        breaker.ask(REPORT, "probe", failures=1)
    assert waits == [60, 120, 240, 300, 300]


@pytest.mark.parametrize(("quiet", "wait"), [(299, 120), (300, 60)])
def test_so_long_closed_and_the_wait_begins_anew(quiet: int, wait: int) -> None:
    breaker = Breaker()
    breaker.trip()
    breaker.probe()
    breaker.ask(REPORT, "probe", successes=1)
    assert breaker.state == CLOSED
    breaker.clock.now += quiet
    breaker.trip()
    assert breaker.ask(ASK)[WAIT] == wait


def test_retry_after_opens_for_exactly_that_long_and_does_not_keep_what_was_forgotten() -> None:
    breaker = Breaker()
    breaker.trip()
    breaker.probe()
    breaker.ask(REPORT, "probe", successes=1)
    breaker.clock.now += 300
    assert breaker.ask(REPORT, failures=1, duration=7)[WAIT] == 7
    breaker.probe()
    assert breaker.ask(REPORT, "probe", failures=1)[WAIT] == 60, "a first opening of this outage"


@pytest.mark.parametrize("calls", [1, 3])
def test_so_many_probes_at_a_time_and_a_dead_ones_place_is_free_at_its_deadline(calls: int) -> None:
    breaker = Breaker(spare_probes=calls - 1)
    breaker.trip()
    breaker.clock.now += 60
    assert [breaker.ask(ASK, str(i))[ALLOWED] for i in range(calls + 2)] == [1] * calls + [0, 0]
    breaker.clock.now += 59
    assert not breaker.ask(ASK, "x")[ALLOWED]
    breaker.clock.now += 1
    assert breaker.ask(ASK, "x")[ALLOWED]


def test_a_late_outcome_of_the_same_generation_still_counts_and_of_another_never() -> None:
    breaker = Breaker()
    breaker.trip()
    opened = breaker.generation
    breaker.probe()
    breaker.clock.now += 1000
    breaker.ask(REPORT, "probe", generation=opened, successes=1)
    assert breaker.state == HALF_OPEN
    breaker.ask(REPORT, "probe", successes=1)
    assert breaker.state == CLOSED


def test_a_permit_whose_holder_asks_again_after_the_next_opening_is_a_probe() -> None:
    breaker = Breaker(recovery_timeout=10, max_interval=10, spare_probes=1)
    breaker.trip()
    breaker.clock.now += 10
    assert all(breaker.ask(ASK, lease_id)[ALLOWED] for lease_id in "ab")
    breaker.ask(REPORT, "b", failures=1)
    breaker.clock.now += 10
    assert breaker.ask(ASK, "a")[ALLOWED]
    assert breaker.state == HALF_OPEN, "or its outcome would count for nothing"


@pytest.mark.parametrize(
    ("pause", "more"),
    [(0, 1), (99, 1), (100, 1), (150, 6), (180, 9), (199, 10), (200, 10), (10**9, 10), (-1, 10)],
)
def test_rates_count_over_the_window(pause: int, more: int) -> None:
    """After 5 good and 4 bad calls: how many more bad ones make 10, of which half are bad."""
    breaker = Breaker(failure_threshold=1000, window=100, minimum_calls=10, failure_permille=500)
    for _ in range(5):
        breaker.ask(REPORT, successes=1)
    for _ in range(4):
        breaker.ask(REPORT, failures=1)
    breaker.clock.now += pause
    for _ in range(more):
        assert breaker.state == CLOSED
        breaker.ask(REPORT, failures=1)
    assert breaker.state == OPEN


@pytest.mark.parametrize(("age", "state"), [(99, OPEN), (100, CLOSED)])
def test_a_success_that_is_older_than_the_window_does_not_count_in_it(age: int, state: int) -> None:
    breaker = Breaker(failure_threshold=1000, window=100, minimum_calls=10, failure_permille=500)
    breaker.ask(REPORT, failures=1)
    breaker.ask(ASK, successes=1, success_age=age)
    for _ in range(8):
        breaker.ask(REPORT, failures=1)
    assert breaker.state == state


@pytest.mark.parametrize(("bad", "state"), [(4, CLOSED), (5, OPEN)])
def test_a_rate_is_of_the_calls_and_not_of_the_failures_alone(bad: int, state: int) -> None:
    breaker = Breaker(failure_threshold=1000, window=100, minimum_calls=2, failure_permille=250)
    breaker.ask(REPORT, successes=15)
    for _ in range(bad):
        breaker.ask(REPORT, failures=1)
    assert breaker.state == state


@pytest.mark.parametrize(("closed_for", "wait"), [(0, 11), (89, 11), (95, 5)])
def test_a_call_that_slow_start_denies_waits_a_tenth_of_it_or_until_its_end(closed_for: int, wait: int) -> None:
    breaker = Breaker(slow_start=100)
    breaker.trip()
    breaker.probe()
    breaker.ask(REPORT, "probe", successes=1)
    breaker.clock.now += closed_for
    verdict = breaker.ask(ASK, random_permille=999)
    assert (verdict[ALLOWED], verdict[WAIT]) == (0, wait)


@pytest.mark.parametrize("calls", [1, 3])
def test_what_holds_for_every_breaker_whatever_happens(calls: int) -> None:
    @examples(300)
    @given(scenarios(BREAKER, 1))
    def check(scenario: tuple[Config, list[Step]]) -> None:
        config, steps = scenario
        config = {
            **config,
            "spare_probes": calls - 1,
            "slow_start": 0,
            "shadow": 0,
            "record_ttl": 100 * 365 * 86_400 * 10**6,
        }
        one = One(BREAKER, **config)
        generation, state = 0, CLOSED
        for step in steps:
            if step.event[0] == FORCE:
                continue
            one.clock.now += step.elapsed
            before = one.store.state(BREAKER, KEY)
            call = step.call(BREAKER, KEY, config, one.store)
            if step.event[0] == ASK:  # it may carry successes, no failures
                call = call._replace(event=(*call.event[:4], *(0,) * 5))
            verdict = one.store.apply([call])[0]
            after = one.store.state(BREAKER, KEY)
            assert len(after.leases) <= calls
            if not verdict[ALLOWED]:
                assert after == before, "a refused probe writes nothing"
                assert state != CLOSED
                assert verdict[WAIT] > 0
                continue
            assert verdict[ANSWER] == state
            was, (state, now) = (state, generation), verdict[RECORD : RECORD + 2]
            assert now > generation if state != was[0] else now >= generation
            generation = now
            if step.event[0] == ASK and state != CLOSED:
                assert state == HALF_OPEN
                assert step.lease_id in [lease.owner for lease in after.leases]
        # It never stays shut: once the probes under way have reported, waiting as told lets one through.
        for lease_id in "abcd":
            one.ask(REPORT, lease_id)
        verdict = one.ask(ASK, "last")
        longest = max(config["recovery_timeout"], config["max_interval"], 5)
        if not verdict[ALLOWED]:
            assert verdict[WAIT] <= longest
            one.clock.now += verdict[WAIT]
            assert one.ask(ASK, "last")[ALLOWED]

    check()
