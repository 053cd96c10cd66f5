"""Two processes with different settings for one breaker, as in a rolling deploy; and rates, fleet-wide."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ratelimit_core import CircuitBreaker, configure
from ratelimit_core.circuit_breaker.breaker import cache_of
from ratelimit_core.circuit_breaker.operator import read_record
from ratelimit_core.events import ConfigMismatch, Event
from tests.circuit_breaker.fleet import Fleet, ask, fail, probe, succeed

# Settings


def told(happened: list[Event]) -> list[Event]:
    return [event for event in happened if isinstance(event, ConfigMismatch)]


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
    assert told(happened) == [ConfigMismatch("upstream")]


def test_both_know_after_the_next_change_of_state(fleet: Fleet, happened: list[Event]) -> None:
    old, new = fleet.process(failure_threshold=1), fleet.process(failure_threshold=1, recovery_timeout=61)
    pass_time(fleet, old, new)
    for changing in (old, new, old, new):
        fail(changing)
        fleet.clock.advance(500)
        probe(changing).success()
        pass_time(fleet, old, new)
    assert told(happened) == [ConfigMismatch("upstream")] * 2, "once in each process"


def test_the_same_settings_are_no_difference(fleet: Fleet, happened: list[Event]) -> None:
    one = fleet.process(failure_threshold=1, recovery_timeout=60)
    other = fleet.process(failure_threshold=1, recovery_timeout=60.0, expected_exception=OSError)
    for _ in range(3):
        pass_time(fleet, one, other)
        fail(one)
        fleet.clock.advance(60 * 8)
        probe(other).success()
    assert not told(happened)


ORDERS: dict[str, Callable[[CircuitBreaker], object]] = {
    "force_open": lambda breaker: breaker.force_open("ann"),
    "force_closed": lambda breaker: breaker.force_closed("ann"),
    "automatic": lambda breaker: breaker.clear_override("ann"),
    "reset": lambda breaker: breaker.reset("ann"),
    "look": lambda breaker: breaker.peek(refresh=True),
    "status": lambda breaker: breaker.get_status(),
}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("of_the_process", [{}, {"recovery_timeout": 7}], ids=["defaults", "settings of its own"])
def test_who_only_looks_or_gives_orders_has_no_settings(
    fleet: Fleet, happened: list[Event], order: Callable[[CircuitBreaker], object], of_the_process: dict[str, Any]
) -> None:
    worker, another = fleet.processes(2, failure_threshold=3, recovery_timeout=9)
    succeed(worker)
    succeed(another)
    configure(circuit_breaker=of_the_process)
    operator = fleet.process()
    order(operator)
    pass_time(fleet, *([] if order is ORDERS["force_open"] else [worker]))
    order(operator)
    assert not told(happened)


def test_a_reference_without_options_has_none_either_and_hides_none(fleet: Fleet, happened: list[Event]) -> None:
    defined = fleet.process(failure_threshold=3)
    for _ in range(3):
        pass_time(fleet, defined)
        reference = fleet.process()  # one that does not know yet how it stands
        pass_time(fleet, reference, defined)
        fail(defined, 3)
        fleet.clock.advance(600)
        probe(reference).success()
    assert not told(happened)
    pass_time(fleet, defined)
    pass_time(fleet, fleet.process(failure_threshold=2))
    succeed(fleet.process())
    pass_time(fleet, defined)
    assert told(happened) == [ConfigMismatch("upstream")]


def test_defaults_that_a_process_is_configured_with_are_settings(fleet: Fleet, happened: list[Event]) -> None:
    configure(circuit_breaker={"recovery_timeout": 7})
    old = fleet.process()
    succeed(old)
    configure(circuit_breaker={"recovery_timeout": 8})
    new = fleet.process()
    pass_time(fleet, new, old)
    assert told(happened) == [ConfigMismatch("upstream")]


def test_how_long_a_process_lets_its_probes_run_is_its_own_affair(fleet: Fleet, happened: list[Event]) -> None:
    """The time limit of a task says so: it is no setting that others could be given."""
    web, worker = fleet.process(failure_threshold=3), fleet.process(failure_threshold=3, probe_timeout=30)
    pass_time(fleet, web, worker, web)
    assert not told(happened)


def test_two_that_differ_do_not_write_in_turns(fleet: Fleet) -> None:
    one, other = fleet.process(failure_threshold=5), fleet.process(failure_threshold=4)
    pass_time(fleet, one, other)
    before = read_record(cache_of(one))
    pass_time(fleet, one, other)
    assert read_record(cache_of(one)).record == before.record


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
