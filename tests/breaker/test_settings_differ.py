"""Two processes with different settings for one breaker, as in a rolling deploy; and rates, fleet-wide."""

from __future__ import annotations

import pytest

from ratelimit_core import CircuitBreaker
from ratelimit_core.events import Event, SettingsDiffer
from tests.breaker.fleet import Fleet, ask, fail, probe, succeed

# Settings


def told(happened: list[Event]) -> list[Event]:
    return [event for event in happened if isinstance(event, SettingsDiffer)]


def pass_time(fleet: Fleet, *breakers: CircuitBreaker) -> None:
    for _ in range(10):
        fleet.clock.advance(1)
        for breaker in breakers:
            succeed(breaker)


def test_the_old_process_is_told_once_that_there_is_a_new_one(fleet: Fleet, happened: list[Event]) -> None:
    old = fleet.process(failure_threshold=5)
    succeed(old)
    assert not told(happened)
    new = fleet.process(failure_threshold=4)
    pass_time(fleet, new, old)
    assert told(happened) == [SettingsDiffer("upstream")]


def test_both_know_after_the_next_change_of_state(fleet: Fleet, happened: list[Event]) -> None:
    old, new = fleet.process(failure_threshold=1), fleet.process(failure_threshold=1, recovery_timeout=61)
    pass_time(fleet, old, new)
    for changing in (old, new, old, new):
        fail(changing)
        fleet.clock.advance(500)
        probe(changing).success()
        pass_time(fleet, old, new)
    assert told(happened) == [SettingsDiffer("upstream")] * 2, "once in each process"


def test_the_same_settings_are_no_difference(fleet: Fleet, happened: list[Event]) -> None:
    one = fleet.process(failure_threshold=1, recovery_timeout=60)
    other = fleet.process(failure_threshold=1, recovery_timeout=60.0, expected_exception=OSError)
    for _ in range(3):
        pass_time(fleet, one, other)
        fail(one)
        fleet.clock.advance(60 * 8)
        probe(other).success()
    assert not told(happened)


def test_two_that_differ_do_not_write_in_turns(fleet: Fleet) -> None:
    one, other = fleet.process(failure_threshold=5), fleet.process(failure_threshold=4)
    pass_time(fleet, one, other)
    before = one._known.peek()
    pass_time(fleet, one, other)
    assert one._known.peek()[5:] == before[5:]


# Rates


def mixed(fleet: Fleet, breakers: list[CircuitBreaker], good: int, bad: int) -> None:
    """Calls by all in turns; the successes first, and told before the failures."""
    for i in range(good):
        if ask(breakers[i % len(breakers)]):
            succeed(breakers[i % len(breakers)])
    fleet.clock.advance(0.3)
    for breaker in breakers:
        succeed(breaker)
    for i in range(bad):
        if breakers[0].state == "closed":
            fail(breakers[i % len(breakers)])
            fleet.clock.advance(0.3)


@pytest.mark.parametrize(("bad", "state"), [(3, "closed"), (4, "open")])
def test_a_failure_rate_is_that_of_all_processes(fleet: Fleet, bad: int, state: str) -> None:
    breakers = fleet.processes(4, failure_threshold=1000, failure_rate=0.25, minimum_calls=12)
    mixed(fleet, breakers, good=8, bad=bad)  # and one more success of each: 12
    assert breakers[0].state == state


@pytest.mark.parametrize(("minimum", "state"), [(6, "open"), (7, "closed")])
def test_so_many_calls_are_needed_for_a_verdict(fleet: Fleet, minimum: int, state: str) -> None:
    breakers = fleet.processes(3, failure_threshold=1000, failure_rate=0.5, minimum_calls=minimum)
    for i in range(6):
        fail(breakers[i % 3])
    assert breakers[0].state == state


@pytest.mark.parametrize(("pause", "state"), [(1, "open"), (119, "closed"), (120, "closed"), (10_000, "closed")])
def test_what_is_older_than_the_window_does_not_count(fleet: Fleet, pause: float, state: str) -> None:
    breakers = fleet.processes(2, failure_threshold=1000, failure_rate=0.5, minimum_calls=10, window=60)
    for i in range(9):
        fail(breakers[i % 2])
    fleet.clock.advance(pause)
    fail(breakers[0])
    assert breakers[0].state == state


@pytest.mark.parametrize(("slow", "state"), [(4, "closed"), (5, "open")])
def test_slow_calls_of_all_processes_open_it_though_they_answer(fleet: Fleet, slow: int, state: str) -> None:
    breakers = fleet.processes(5, slow_call_rate=0.5, slow_call_duration=2, minimum_calls=10)
    for i in range(10):
        permit = breakers[i % 5].acquire()
        fleet.clock.advance(2 if i >= 10 - slow else 1.999)
        permit.success()
        fleet.clock.advance(0.3)
        ask(breakers[i % 5])
    assert breakers[0].state == state


def test_a_slow_probe_does_not_close_it(fleet: Fleet) -> None:
    breaker = fleet.process(failure_threshold=1, slow_call_rate=0.5, slow_call_duration=2)
    fail(breaker)
    fleet.clock.advance(60)
    permit = probe(breaker)
    fleet.clock.advance(2)
    permit.success()
    assert (breaker.state, breaker.get_status()["backoff_time"]) == ("open", 120)
