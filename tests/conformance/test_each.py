"""Several batches in one round trip: the same as each of them alone, one after the other, at one moment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimit_core.backends import Backend, Call, MemoryBackend
from ratelimit_core.policies import (
    ALLOWED,
    ANSWER,
    BREAKER,
    CONCURRENCY,
    COUNTER,
    FIXED_WINDOW,
    POLICIES,
    SLIDING_WINDOW,
    TOKEN_BUCKET,
    Policy,
    Verdict,
)
from ratelimit_core.protocol.call import Key
from ratelimit_core.testing import ManualClock

from .conftest import NewParticipant
from .participants import InMemory, Participant
from .profiles import examples
from .reference import Reference
from .scenarios import Step, plain_config, steps
from .test_agreement import NAMES
from .test_stores import PEEK, REFUND, ask, every_limit, every_policy, left, use

Batch = dict[tuple[str, str], Step]
Round = tuple[list[Batch], int | None]


@st.composite
def rounds_of_batches(draw: st.DrawFn, unit: int) -> list[Round]:
    """In each, some batches of calls, which often share records, and how many of them may be allowed."""
    places = st.tuples(st.sampled_from(list(POLICIES)), st.sampled_from(NAMES))

    def step(place: tuple[str, str]) -> st.SearchStrategy[Step]:
        policy = POLICIES[place[0]]
        return steps(policy, plain_config(policy, unit), [0, 0, unit, 3 * unit, 8 * unit], unit)

    def together(chosen: list[tuple[str, str]]) -> st.SearchStrategy[Batch]:
        return st.fixed_dictionaries({place: step(place) for place in chosen})

    def batches(chosen: list[tuple[str, str]]) -> st.SearchStrategy[list[Batch]]:
        batch = st.lists(st.sampled_from(chosen), unique=True, max_size=3).flatmap(together)
        return st.lists(batch, max_size=6)

    asked = st.lists(places, unique=True, min_size=1, max_size=3).flatmap(batches)
    return draw(st.lists(st.tuples(asked, st.sampled_from([None, None, 0, 1, 2, 4])), min_size=1, max_size=8))


def calls_of(batches: list[Batch], unit: int, reference: Reference) -> list[list[Call]]:
    return [
        [
            step.call(POLICIES[name], (key, name), plain_config(POLICIES[name], unit), reference)
            for (name, key), step in batch.items()
        ]
        for batch in batches
    ]


def in_turn(batches: Sequence[Sequence[Call]], place: Callable[[str], Hashable]) -> list[int]:
    """The order in which batches are decided: those in one place together, one in several places alone."""
    turns: dict[Hashable, list[int]] = {}
    for i, calls in enumerate(batches):
        places = frozenset(place(call.key[0]) for call in calls)
        turns.setdefault(places if len(places) == 1 else i, []).append(i)
    return [i for turn in turns.values() for i in turn]


def one_by_one(
    apply: Callable[[Sequence[Call]], list[Verdict]],
    batches: Sequence[Sequence[Call]],
    most: int | None,
    order: Sequence[int],
) -> list[list[Verdict]]:
    """What the batches have to come to."""
    found: list[list[Verdict]] = [[] for _ in batches]
    for i in order:
        if most == 0:
            break
        if batches[i]:
            found[i] = apply(batches[i])
            if most is not None and all(verdict[ALLOWED] for verdict in found[i]):
                most -= 1
    return found


def play_each(
    rounds: list[Round], unit: int, clock: ManualClock, participant: Participant, place: Callable[[str], Hashable]
) -> None:
    """Compare verdicts, records, leases and what is listed after every round."""
    reference, memory = Reference(clock), InMemory(clock)
    touched = {at for batches, _ in rounds for batch in batches for at in batch}
    for batches, most in rounds:
        clock.now += max((step.elapsed for batch in batches for step in batch.values()), default=0)
        calls = calls_of(batches, unit, reference)
        order = in_turn(calls, place)
        expected = one_by_one(reference.apply, calls, most, order)
        assert one_by_one(memory.apply, calls, most, order) == expected
        assert participant.apply_each(calls, most) == expected, f"{participant}: {calls}, {most} at {clock.now}"
        for name, key in touched:
            policy, at = POLICIES[name], (key, name)
            assert participant.state(policy, at) == reference.state(policy, at), f"{participant}: {policy.name}"
    for policy in POLICIES.values():
        assert participant.keys(policy) == reference.keys(policy), f"{participant}: {policy.name}"


def test_batches_come_to_the_same_as_one_by_one(participant: NewParticipant) -> None:
    unit = participant(ManualClock()).finest

    @examples(80)
    @given(rounds_of_batches(unit))
    def agree(rounds: list[Round]) -> None:
        clock = ManualClock()
        each = participant(clock)
        play_each(rounds, unit, clock, each, each.place)

    agree()


# On each of the stores


def allowed(verdicts: list[list[Verdict]]) -> list[list[int]]:
    return [[verdict[ALLOWED] for verdict in batch] for batch in verdicts]


every_store = pytest.mark.every_store


@every_store
@every_limit
def test_a_record_in_every_batch_is_taken_as_often_as_its_limit_allows(store: Backend, policy: Policy) -> None:
    verdicts = store.apply_each([[ask(policy, lease_id=str(i))] for i in range(5)])
    assert allowed(verdicts) == [[1], [1], [1], [0], [0]]
    assert [verdict[ANSWER] for (verdict,) in verdicts] == [2, 1, 0, 0, 0]
    assert left(store, policy) == 0


@every_store
@pytest.mark.parametrize("policy", [CONCURRENCY, SLIDING_WINDOW], ids=lambda policy: policy.name)
def test_a_later_batch_sees_the_leases_of_an_earlier_one(store: Backend, policy: Policy, clock: ManualClock) -> None:
    asked = [ask(policy, lease_id=lease_id) for lease_id in "abcd"]
    back = ask(policy, op=REFUND, lease_id="b")
    batches = [[call] for call in (*asked, back, asked[3], ask(policy, op=REFUND, lease_id="e"), asked[1])]
    verdicts = store.apply_each(batches)
    assert allowed(verdicts) == [[1], [1], [1], [0], [1], [1], [1], [0]]
    assert verdicts == MemoryBackend(clock=clock).apply_each(batches)


@every_store
def test_a_breaker_that_one_batch_opens_is_open_for_the_next(store: Backend) -> None:
    config = tuple((plain_config(BREAKER, 60_000_000) | {"failure_threshold": 2}).values())
    report = Call(BREAKER, ("name", ""), (1, 0, 0, 0, 1, 0, 0, 0, 0), config, "r")
    asking = Call(BREAKER, ("name", ""), (0,) * 9, config, "a")
    batches = [[asking], [report], [asking], [report], [asking, ask(FIXED_WINDOW, ("name", "x"))]]
    assert allowed(store.apply_each(batches)) == [[1], [1], [1], [1], [0, 1]]
    assert left(store, FIXED_WINDOW, ("name", "x")) == 3


@every_store
@every_policy
def test_a_denied_batch_leaves_nothing_and_does_not_stop_the_others(store: Backend, policy: Policy) -> None:
    full, other = ("full", ""), ("other", "")
    store.apply_each([[ask(FIXED_WINDOW, full, lease_id=str(i))] for i in range(3)])
    batches = [
        [use(policy, ("new", "")), ask(FIXED_WINDOW, full)],
        [use(policy, other)],
        [ask(FIXED_WINDOW, full), use(policy, ("newer", ""))],
    ]
    verdicts = store.apply_each(batches)
    assert allowed(verdicts) == [[1, 0], [1], [0, 1]]
    assert set(store.keys(policy)) == ({other, full} if policy is FIXED_WINDOW else {other})
    assert verdicts[2][1] == store.apply([use(policy, ("newest", ""))])[0]


@every_store
def test_after_so_many_allowed_batches_none_is_decided(store: Backend) -> None:
    batches = [[ask(CONCURRENCY, (name, ""), lease_id=str(i))] for i, name in enumerate("aaaaabb")]
    assert allowed(store.apply_each(batches, 0)) == [[]] * 7
    assert store.keys(CONCURRENCY) == []
    assert allowed(store.apply_each(batches, 2)) == [[1], [1], [], [], [], [], []]
    assert left(store, CONCURRENCY, ("a", "")) == 1
    again = [[ask(CONCURRENCY, (name, ""), lease_id=f"again {i}")] for i, name in enumerate("aaaaabb")]
    assert allowed(store.apply_each(again, 2)) == [[1], [0], [0], [0], [0], [1], []]
    assert left(store, CONCURRENCY, ("b", "")) == 2
    assert allowed(store.apply_each(again[5:], 9)) == [[1], [1]]


@every_store
def test_no_batches_and_batches_without_calls(store: Backend) -> None:
    assert store.apply_each([]) == []
    assert store.apply_each([[], []]) == [[], []]
    assert allowed(store.apply_each([[], [ask(TOKEN_BUCKET)], [], [ask(TOKEN_BUCKET)], []], 1)) == [[], [1], [], [], []]
    assert left(store, TOKEN_BUCKET) == 2


@every_store
@every_policy
def test_a_record_asked_twice_in_one_batch_is_refused_and_nothing_is_taken(store: Backend, policy: Policy) -> None:
    twice = [ask(policy, ("name", "x")), ask(policy, ("name", "x"))]
    with pytest.raises(ValueError, match=f"{policy.name}.*'name'"):
        store.apply_each([[ask(TOKEN_BUCKET)], twice])
    with pytest.raises(ValueError, match=f"{policy.name}.*'name'"):
        asyncio.run(store.aapply_each([[ask(TOKEN_BUCKET)], twice]))
    assert all(store.keys(each) == [] for each in POLICIES.values())


@every_store
def test_an_event_loop_gets_the_same_answers(store: Backend, clock: ManualClock) -> None:
    twin = MemoryBackend(clock=clock)

    async def main() -> None:
        assert await store.aapply_each([]) == await store.aapply_each_unguarded([]) == []
        for turn in range(12):
            batches = [
                [use(policy, lease_id=f"{turn} {policy.name} {i}") for policy in POLICIES.values()][turn % 3 :]
                for i in range(3)
            ]
            most = [None, 1, 2][turn % 3]
            ask_store = store.aapply_each if turn % 2 else store.aapply_each_unguarded
            assert await ask_store(batches, most) == twin.apply_each(batches, most), turn
            clock.advance(60 * (turn % 3))

    asyncio.run(main())


@every_store
def test_many_batches_of_many_records(store: Backend, clock: ManualClock) -> None:
    batches = [
        [ask(policy, (f"name {i % 40}", q), lease_id=str(i)) for policy in (CONCURRENCY, TOKEN_BUCKET) for q in "ab"]
        for i in range(64)
    ]
    twin = MemoryBackend(clock=clock)
    assert store.apply_each(batches) == twin.apply_each(batches)
    assert store.apply_each(batches[::-1], 10) == twin.apply_each(batches[::-1], 10)
    for policy in (CONCURRENCY, TOKEN_BUCKET):
        assert sorted(store.keys(policy)) == sorted(twin.keys(policy))


class Ticking(ManualClock):
    """A second passes at each look."""

    def __call__(self) -> int:
        self.advance(1)
        return super().__call__()


class TestOneMoment:
    @pytest.fixture
    def clock(self) -> ManualClock:
        return Ticking()

    @every_store
    def test_all_batches_are_decided_at_one_time(self, store: Backend) -> None:
        calls = [ask(FIXED_WINDOW, (name, "")) for name in "abc"]
        leased = [ask(CONCURRENCY, (name, ""), lease_id=name) for name in "abc"]
        verdicts = store.apply_each([[call, lease] for call, lease in zip(calls, leased, strict=True)])
        assert len(set(map(tuple, verdicts))) == 1


# What a subclass of Backend with no more than it has to have does


class Minimal(Backend):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.memory = MemoryBackend(**options)
        self.asked = 0

    def _apply(self, calls: Sequence[Call]) -> list[Verdict]:
        self.asked += 1
        return self.memory.apply(calls)

    def _delete(self, policy: Policy, keys: Sequence[Key]) -> None:
        self.memory.delete(policy, keys)

    def _keys(self, policy: Policy, most: int | None) -> list[Key]:
        return self.memory.keys(policy, most)

    def _clear(self) -> None:
        self.memory.clear()

    def _append(self, key: Key, entry: str, keep: int, seconds: int) -> None:
        self.memory.append(key, entry, keep, seconds)

    def _entries(self, key: Key) -> list[str]:
        return self.memory.entries(key)


def test_a_store_that_knows_only_apply_is_asked_once_for_each_batch(clock: ManualClock) -> None:
    store = Minimal(clock=clock)
    batches = [[ask(TOKEN_BUCKET), ask(COUNTER)], [], [ask(TOKEN_BUCKET)], [ask(TOKEN_BUCKET)], [ask(TOKEN_BUCKET)]]
    assert allowed(store.apply_each(batches)) == [[1, 1], [], [1], [1], [0]]
    assert store.asked == 4
    other = [[ask(TOKEN_BUCKET, ("other", ""))]] * 4
    assert allowed(asyncio.run(store.aapply_each(other, 2))) == [[1], [1], [], []]
    assert store.asked == 6
    assert store.apply([ask(TOKEN_BUCKET, ("other", ""), PEEK)])[0][ANSWER] == 1
