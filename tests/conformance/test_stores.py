"""What every store promises beside its decisions, on each of them."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ratelimit_core._util.clock import SECOND
from ratelimit_core.backends import Backend, Call, MemoryBackend
from ratelimit_core.policies import (
    ALLOWED,
    ANSWER,
    BREAKER,
    CONCURRENCY,
    EXPIRES,
    FIXED_WINDOW,
    LIMITS,
    PLACE,
    POLICIES,
    SLIDING_WINDOW,
    TOKEN_BUCKET,
    Policy,
)
from ratelimit_core.testing import ManualClock

from .profiles import examples
from .scenarios import OPERATIONS, plain_config

pytestmark = pytest.mark.every_store

HIT, PEEK, REFUND = 0, 1, 2
REPORT = TAKE = 1
LEAVE = 3
UNIT = 60 * SECOND


def ask(policy: Policy, key: tuple[str, str] = ("name", ""), op: int = HIT, lease_id: str = "lease_id") -> Call:
    """A call that takes one of three (of a breaker: reports a failure; of a place: takes it), for four minutes."""
    config = plain_config(policy, UNIT)
    values = dict.fromkeys(policy.event, 0) | {
        "op": op,
        "cost": 1,
        "spare_leases": config.get("limit", 1) - 1,
        "failures": 1,
        "caller": 1,
    }
    values["period"] = 4 * UNIT
    return Call(policy, key, tuple(values[name] for name in policy.event), tuple(config.values()), lease_id)


def use(policy: Policy, key: tuple[str, str] = ("name", ""), lease_id: str = "lease_id") -> Call:
    """A call that leaves something behind."""
    return ask(policy, key, {BREAKER: REPORT, PLACE: TAKE}.get(policy, HIT), lease_id)


def left(store: Backend, policy: Policy, key: tuple[str, str] = ("name", "")) -> int:
    return store.apply([ask(policy, key, PEEK)])[0][ANSWER]


every_limit = pytest.mark.parametrize("policy", LIMITS, ids=lambda policy: policy.name)
every_policy = pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)


@every_policy
def test_a_record_asked_twice_in_one_call_is_refused_and_nothing_is_taken(store: Backend, policy: Policy) -> None:
    with pytest.raises(ValueError, match=f"{policy.name}.*'name'"):
        store.apply([ask(TOKEN_BUCKET), ask(policy, ("name", "x")), ask(policy, ("name", "x"))])
    assert all(store.keys(each) == [] for each in POLICIES.values())


def test_the_same_name_under_two_policies_or_qualifiers_is_two_records(store: Backend) -> None:
    verdicts = store.apply([ask(policy, ("name", q)) for policy in LIMITS for q in ("", "x", "leases")])
    assert [verdict[ANSWER] for verdict in verdicts] == [2] * len(verdicts)


def test_no_calls_are_no_verdicts(store: Backend) -> None:
    assert store.apply([]) == []


@every_limit
def test_a_denied_call_takes_nothing_of_any(store: Backend, policy: Policy) -> None:
    full = ("full", "")
    for i in range(3):
        assert store.apply([ask(policy, full, lease_id=str(i))])[0][ALLOWED]
    others = [ask(each, ("other", ""), lease_id="t") for each in LIMITS]
    verdicts = store.apply([*others, ask(policy, full, lease_id="t")])
    assert [verdict[ALLOWED] for verdict in verdicts] == [1] * len(others) + [0]
    assert [left(store, each, ("other", "")) for each in LIMITS] == [3] * len(LIMITS)
    assert left(store, policy, full) == 0


@every_policy
def test_what_is_in_use_is_listed_until_it_ends(store: Backend, policy: Policy, clock: ManualClock) -> None:
    store.apply([use(policy, ("a", "b"))])
    others = [other for other in POLICIES.values() if other is not policy]
    assert store.keys(policy) == [("a", "b")]
    assert [store.keys(other) for other in others] == [[]] * len(others)
    clock.advance(24 * 60)
    assert store.keys(policy) == []


@every_limit
def test_what_has_ended_counts_as_never_asked(store: Backend, policy: Policy, clock: ManualClock) -> None:
    fresh = store.apply([ask(policy)])[0]
    begun = clock.now
    clock.advance(24 * 60)
    again = store.apply([ask(policy)])[0]
    passed = clock.now - begun
    assert [value - passed if value > begun else value for value in again] == list(fresh)


@every_policy
def test_a_list_is_no_longer_than_it_was_asked_for(store: Backend, policy: Policy) -> None:
    for name in "abcd":
        store.apply([use(policy, (name, ""))])
    assert [len(store.keys(policy, most)) for most in (0, 3, 9)] == [0, 3, 4]


@every_policy
def test_an_event_loop_gets_the_same_answers(store: Backend, policy: Policy, clock: ManualClock) -> None:
    twin = MemoryBackend(clock=clock)
    other = TOKEN_BUCKET if policy is not TOKEN_BUCKET else FIXED_WINDOW
    operations = range(OPERATIONS[policy.name])

    async def main() -> None:
        for turn in range(24):
            calls = [ask(policy, op=operations[turn % len(operations)], lease_id="abc"[turn % 3])]
            if turn % 4 == 3:
                calls.append(use(other, ("other", "")))
            assert await store.aapply(calls) == twin.apply(calls), turn
            clock.advance(60 * (turn % 3))

    asyncio.run(main())


@pytest.mark.parametrize("policy", [CONCURRENCY, SLIDING_WINDOW], ids=lambda policy: policy.name)
def test_what_is_given_back_is_no_longer_listed(store: Backend, policy: Policy) -> None:
    store.apply([ask(policy, lease_id="a")])
    store.apply([ask(policy, lease_id="b")])
    store.apply([ask(policy, op=REFUND, lease_id="a")])
    assert store.keys(policy) == [("name", "")]
    store.apply([ask(policy, op=REFUND, lease_id="b")])
    assert store.keys(policy) == []


def test_a_place_that_is_left_is_no_longer_listed(store: Backend) -> None:
    for name in "ab":
        store.apply([use(PLACE, (name, ""))])
    assert store.apply([ask(PLACE, ("a", ""), op=LEAVE)])[0][ALLOWED]
    assert store.keys(PLACE) == [("b", "")]
    assert store.apply([ask(PLACE, (name, "")) for name in "ab"])[0][:EXPIRES] == (1, 0, 0, 0)
    assert store.apply([use(PLACE, ("a", ""))])[0][:EXPIRES] == (1, 0, 1, 0)
    assert sorted(store.keys(PLACE)) == [("a", ""), ("b", "")]


def test_a_probe_that_outlives_the_record_does_not_shorten_its_listing(store: Backend, clock: ManualClock) -> None:
    config = plain_config(BREAKER, UNIT) | {"failure_threshold": 1, "record_ttl": 100 * UNIT, "spare_probes": 2}
    values = tuple(config.values())
    report, asking = (1, 0, 0, 0, 1, 0, 0, 0, 0), (0,) * 9
    store.apply([Call(BREAKER, ("p", ""), report, values, "a")])
    clock.advance(4 * 60)
    for lease_id in "ab":  # the second probe changes no record, and adds a lease of four minutes
        assert store.apply([Call(BREAKER, ("p", ""), asking, values, lease_id)])[0][ALLOWED]
    clock.advance(50 * 60)
    assert store.keys(BREAKER) == [("p", "")]


@every_policy
def test_delete_forgets_these_and_no_others(store: Backend, policy: Policy, clock: ManualClock) -> None:
    for name in "abc":
        store.apply([use(policy, (name, "x"))])
    store.delete(policy, [("a", "x"), ("c", "x"), ("never", "stored")])
    store.delete(policy, [])
    assert store.keys(policy) == [("b", "x")]
    clock.advance(1)
    untouched, forgotten = (store.apply([use(policy, (name, "x"))])[0] for name in "ba")
    assert untouched != forgotten


def test_clear_forgets_everything(store: Backend) -> None:
    calls = [use(p, (name, q)) for p in POLICIES.values() for name in "ab" for q in ("", "é" * 300)]
    first = store.apply(calls)
    assert all(len(store.keys(policy)) == 4 for policy in POLICIES.values())
    store.clear()
    assert all(store.keys(policy) == [] for policy in POLICIES.values())
    assert store.apply(calls) == first


def test_a_journal_keeps_so_many_newest_first_and_is_forgotten_with_the_rest(store: Backend) -> None:
    one, other = ("a", "history"), ("a", "mode")
    assert store.entries(one) == []
    for number in range(250):
        store.append(one, str(number), keep=200, seconds=60)
        store.append(other, str(number), keep=1, seconds=60)
    assert store.entries(one) == [str(number) for number in reversed(range(50, 250))]
    assert store.entries(other) == ["249"]
    assert all(store.keys(policy) == [] for policy in POLICIES.values())
    store.clear()
    assert store.entries(one) == store.entries(other) == []


@pytest.mark.parametrize("entry", ["", "é😀\x00\n{}", "x" * 100_000], ids=["empty", "awkward", "long"])
def test_a_journal_keeps_any_text(store: Backend, entry: str) -> None:
    for key in (("a", "history"), ("é{}\x00%", "}:")):
        store.append(key, entry, keep=3, seconds=60)
        store.append(key, "and another", keep=3, seconds=60)
        assert store.entries(key) == ["and another", entry]


AWKWARD = [
    "",
    " ",
    "{",
    "}",
    "{}",
    "}:",
    "a:b",
    "%",
    "%%",
    "%41",
    "leases",
    "a:leases",
    "\x00",
    "\n",
    "é",
    "\udcff",
    "😀",
]
texts = st.one_of(st.sampled_from(AWKWARD), st.text(st.characters(codec=None), max_size=12))


@settings(examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=5, unique=True))
def test_any_text_names_a_record_of_its_own_and_is_listed_as_it_was_given(
    store: Backend, keys: list[tuple[str, str]]
) -> None:
    store.clear()
    for policy in (FIXED_WINDOW, CONCURRENCY):
        store.apply([ask(policy, key) for key in keys])
        assert sorted(store.keys(policy)) == sorted(keys)
        assert [left(store, policy, key) for key in keys] == [2] * len(keys)
        store.delete(policy, store.keys(policy))
        assert store.keys(policy) == []


def test_a_megabyte_of_name_is_a_name_like_any_other(store: Backend) -> None:
    long = "é{}" * 350_000
    store.apply([ask(FIXED_WINDOW, (long, long))])
    assert left(store, FIXED_WINDOW, (long, long)) == 2
    assert left(store, FIXED_WINDOW, (long, long + "x")) == 3
    store.delete(FIXED_WINDOW, [(long, long)])
    assert left(store, FIXED_WINDOW, (long, long)) == 3


def test_memory_keeps_at_most_so_many_records_and_drops_the_one_not_written_for_longest(
    clock: ManualClock,
) -> None:
    memory = MemoryBackend(max_keys=3, clock=clock)
    for name in "abcad":
        memory.apply([ask(FIXED_WINDOW, (name, ""))])
    assert memory.keys(FIXED_WINDOW) == [("c", ""), ("a", ""), ("d", "")]


def test_memory_sweeps_out_what_has_ended(clock: ManualClock) -> None:
    memory = MemoryBackend(clock=clock)
    memory.apply([ask(FIXED_WINDOW, (str(i), "")) for i in range(100)])
    clock.advance(24 * 60)
    for _ in range(60):
        memory.apply([ask(FIXED_WINDOW, ("new", ""))])
        memory.apply([ask(FIXED_WINDOW, ("new", ""), REFUND)])
    assert len(memory._records._entries[FIXED_WINDOW.name]) == 1
