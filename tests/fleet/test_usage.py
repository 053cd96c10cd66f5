"""What people see of limits and of who waits, and how the history of a breaker becomes a timeline."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimit_core import Limiter
from ratelimit_core.backends import Backend
from ratelimit_core.circuit_breaker import circuit_breaker_registry
from ratelimit_core.fleet import status
from ratelimit_core.fleet.timeline import timeline
from ratelimit_core.fleet.usage import limits_in_use, overview
from ratelimit_core.limiter.batch import hit_check
from ratelimit_core.metrics.fleet import readings
from ratelimit_core.policies import COUNTER, LIMITS, PLACE, SLIDING_WINDOW
from ratelimit_core.protocol import place
from ratelimit_core.protocol.internal_keys import COMMAND_RATE, command, turns_of, waiting_call
from ratelimit_core.testing import ManualClock, isolated

ALGORITHMS = ["sliding_window", "sliding_window_counter", "fixed_window", "token_bucket", "leaky_bucket"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_limit_is_shown_with_what_is_used_and_looking_takes_nothing(store: Backend, algorithm: Any) -> None:
    limiter = Limiter("4/m", key="user:1", algorithm=algorithm, backend=store)
    assert overview(store, {}).limits == []
    took = sum(limiter.hit().allowed for _ in range(3))
    for _ in range(2):
        (seen,) = overview(store, {}).limits
        assert (seen.key, seen.allowance, seen.used) == ("user:1", limiter.limits[0].allowance, took)
        assert seen.limit == ("4/m burst 1" if algorithm == "leaky_bucket" else "4/m")
    assert (seen.retry_after > 0) == (algorithm == "leaky_bucket")
    assert seen.reset_after == pytest.approx(limiter.peek().reset_after)


def test_places_to_run_are_shown(store: Backend) -> None:
    limiter = Limiter(key="reports", concurrency=2, backend=store)
    taken = [limiter.hit(), limiter.hit()]
    (seen,) = overview(store, {}).limits
    assert (seen.algorithm, seen.key, seen.used, seen.allowance) == ("concurrency", "reports", 2, 2)
    assert seen.retry_after == pytest.approx(60)
    for each in taken:
        limiter.release(each)
    assert overview(store, {}).limits == []


def test_the_fullest_come_first_and_there_are_no_more_than_asked_for(store: Backend) -> None:
    for used in range(1, 6):
        for _ in range(used):
            Limiter("5/m", key=f"user:{used}", backend=store).hit()
    assert [seen.used for seen in overview(store, {}).limits] == [5, 4, 3, 2, 1]
    assert len(overview(store, {}, most=2).limits) == 2
    assert len(store.keys(SLIDING_WINDOW, 3)) == 3
    assert all(store.keys(policy, 0) == [] for policy in LIMITS)


@pytest.mark.parametrize("rate", ["10/s", "100/m", "7/h"])
def test_who_waits_for_a_breaker_is_counted_by_the_turns_they_took(
    store: Backend, clock: ManualClock, rate: str
) -> None:
    turns = Limiter(rate, key="release:payments", algorithm="leaky_bucket", backend=store)
    assert overview(store, {}).waiting == {}
    for _ in range(25):
        assert turns.reserve(10**7, not_before=30)
    breakers = {"payments": {"next_attempt_time": clock.now / 1e6 + 30}}
    seen = overview(store, breakers, now=clock.now / 1e6)
    assert seen.waiting == {"payments": 25}
    assert seen.limits == []


def test_what_the_project_counts_for_itself_is_nobodys_limit(store: Backend) -> None:
    mine = [
        Limiter(COMMAND_RATE, key=command("reset:payments"), algorithm="fixed_window", backend=store),
        Limiter("1/m", key=turns_of("gone"), algorithm="leaky_bucket", backend=store),
        Limiter(None, key=waiting_call("bill", "0123456789abcdef" * 2), concurrency=1, backend=store),
    ]
    assert all(limiter.hit() for limiter in mine)
    assert overview(store, {}).limits == []
    assert limits_in_use(store) == []


def take_a_place(store: Backend, queue: str) -> None:
    taken = store.apply([*place.take(queue, "payments 10/s", 3), place.turn(queue, "shared", 1)])
    assert all(verdict[0] for verdict in taken)
    assert store.keys(COUNTER) == [(queue, "places")]
    assert len(store.keys(PLACE)) == 2


def test_places_and_their_counter_are_nobodys_limit(store: Backend) -> None:
    take_a_place(store, "celery")
    assert overview(store, {}) == ([], {})
    assert limits_in_use(store) == []
    store.incr("celery", 60)
    store.incr("places", 60)
    assert limits_in_use(store) == [("celery", "", "counter"), ("places", "", "counter")]


def test_no_metric_no_console_and_no_list_of_breakers_shows_places(store: Backend) -> None:
    with isolated(backend=store):
        before = status.look(), readings()
        take_a_place(store, "celery")
        assert (status.look(), readings()) == before
        assert circuit_breaker_registry.get_fleet_status() == {}


def test_a_persons_own_limit_may_be_called_alike(store: Backend) -> None:
    theirs = [
        Limiter("1/m", key="control:203.0.113.7", backend=store),
        Limiter("1/m", key="release:notes", backend=store),
        Limiter(None, key="waiting:room", concurrency=1, backend=store),
    ]
    assert all(limiter.hit() for limiter in theirs)
    assert len(overview(store, {}).limits) == len(limits_in_use(store)) == 3


def test_a_key_that_no_limit_has_written_is_left_out(store: Backend) -> None:
    Limiter("5/m", key="right", backend=store).hit()
    call = hit_check(Limiter("5/m", key="wrong", backend=store), "wrong", 1, "t").calls[0]
    store.apply([call._replace(key=("wrong", "no rate"))])
    assert [seen.key for seen in overview(store, {}).limits] == ["right"]


# Timelines


def entry(at: float, event: str, ttl: float | None = None, shadow: bool = False) -> dict[str, Any]:
    return {"at": at, "event": event, "ttl": ttl, "shadow": shadow}


STORY = [
    entry(100, "opened"),
    entry(130, "half_open"),
    entry(131, "opened"),
    entry(200, "forced_open", ttl=50),
    entry(260, "half_open"),
    entry(261, "closed"),
]


def test_a_history_becomes_the_states_that_callers_felt() -> None:
    assert timeline(STORY[::-1], 0, 300) == [
        ("closed", 0, 100),
        ("open", 100, 130),
        ("half_open", 130, 131),
        ("open", 131, 200),
        ("forced_open", 200, 250),
        ("open", 250, 260),
        ("half_open", 260, 261),
        ("closed", 261, 300),
    ]


def test_a_part_of_it_begins_and_ends_where_it_is_cut() -> None:
    assert timeline(STORY[::-1], 140, 220) == [("open", 140, 200), ("forced_open", 200, 220)]
    assert timeline([], 0, 1) == [("closed", 0, 1)]
    assert timeline(STORY[::-1], 400, 500) == [("closed", 400, 500)]


def test_what_a_person_did_goes_before_the_state_until_it_is_ended() -> None:
    story = [entry(1, "forced_closed"), entry(2, "opened"), entry(3, "automatic"), entry(4, "reset")]
    assert timeline(story[::-1], 0, 5) == [("closed", 0, 1), ("forced_closed", 1, 3), ("open", 3, 4), ("closed", 4, 5)]
    shadow = [entry(1, "disabled"), entry(2, "shadow"), entry(3, "opened", shadow=True)]
    assert timeline(shadow[::-1], 0, 5) == [("closed", 0, 1), ("disabled", 1, 2), ("closed", 2, 5)]


EVENTS = ["opened", "half_open", "closed", "reset", "forced_open", "forced_closed", "disabled", "shadow", "automatic"]
entries = st.builds(entry, st.floats(-10, 110), st.sampled_from(EVENTS), st.none() | st.floats(0.1, 50), st.booleans())


@given(st.lists(entries, max_size=12))
def test_any_history_covers_all_of_the_time_once(history: list[dict[str, Any]]) -> None:
    spans = timeline(sorted(history, key=lambda each: -each["at"]), 0, 100)
    assert (spans[0].began, spans[-1].ended) == (0, 100)
    assert all(one.ended == other.began and one.state != other.state for one, other in itertools.pairwise(spans))
    assert all(span.began < span.ended for span in spans)
