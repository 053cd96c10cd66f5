"""The numbered promises about a breaker, on every store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from typing import Any

import pytest
import requests

from ratelimit_core import CircuitBreaker, CircuitBreakerError, events
from ratelimit_core._util.clock import SECOND, microseconds
from ratelimit_core._util.interrupts import interruptions
from ratelimit_core.backends import Backend
from ratelimit_core.circuit_breaker.acquire import AcquireQuestion, cached_permit
from ratelimit_core.circuit_breaker.breaker import cache_of
from ratelimit_core.circuit_breaker.operator import read_record
from ratelimit_core.events import Event, StateChanged
from ratelimit_core.testing import ManualClock
from tests.circuit_breaker.fleet import Fleet, ask, fail, probe, refused, succeed

# 1: consecutive failures, in the order in which the store learns of them


def test_opens_after_the_threshold_of_consecutive_failures(fleet: Fleet) -> None:
    breaker = fleet.process(failure_threshold=3)
    fail(breaker, 2)
    succeed(breaker)
    fail(breaker, 2)
    assert breaker.state == "closed"
    fail(breaker)
    assert breaker.state == "open"


def test_failures_count_fleet_wide(fleet: Fleet) -> None:
    for breaker in fleet.processes(5, failure_threshold=5):
        assert breaker.state == "closed"
        fail(breaker)
    assert breaker.state == "open"


def test_200_quiet_callers_open_it_after_exactly_the_threshold(fleet: Fleet) -> None:
    callers = fleet.processes(200)
    for caller in callers:
        succeed(caller)
        fleet.clock.advance(0.01)
    fleet.clock.advance(1)
    failures = 0
    for caller in callers:
        permit = ask(caller)
        if permit is not None:
            permit.failure(ConnectionError())
            failures += 1
        fleet.clock.advance(0.01)
    assert failures == 5


def test_what_mostly_answers_stays_closed_however_rarely_each_process_calls(fleet: Fleet) -> None:
    callers = fleet.processes(100)
    for number in range(300):  # one call in ten fails, each process calls every 10 s
        caller = callers[number % 100]
        if number % 10 == 9:
            fail(caller)
        else:
            succeed(caller)
        fleet.clock.advance(0.1)
    assert caller.get_status()["failure_count"] <= 1


def test_a_success_is_not_told_before_the_failure_it_followed(fleet: Fleet) -> None:
    early, late = fleet.processes(2, failure_threshold=3)
    succeed(early)
    fleet.clock.advance(5)
    fail(late, 2)
    fleet.clock.advance(5)
    fail(early)  # carries the success of 10 s ago, older than the failures of 5 s ago
    assert early.state == "open"


def test_an_old_success_opens_nothing_that_failures_did_not(fleet: Fleet) -> None:
    one, other = fleet.processes(2, failure_threshold=1, cache_ttl=0)
    succeed(other)  # not told yet
    fleet.clock.advance(0.001)
    one.force_closed()
    fail(one)
    one.clear_override()
    succeed(other)


def test_calls_during_an_outage_stay_within_the_bound(fleet: Fleet) -> None:
    threshold, ttl, step, duration, outage = 5, 0.25, 0.01, 0.05, 30.0
    callers = fleet.processes(20, failure_threshold=threshold, cache_ttl=ttl, recovery_timeout=2)
    for caller in callers:
        succeed(caller)
    watcher = fleet.process(failure_threshold=threshold, recovery_timeout=2)
    settled = called = probes = late = 0
    running: list[tuple[int, Any]] = []
    running_then = opened_at = None
    began = fleet.clock.now
    while fleet.clock.now < began + outage * SECOND:
        while running and running[0][0] <= fleet.clock.now:
            running.pop(0)[1].failure(ConnectionError())
            if opened_at is None:
                settled += 1
                if watcher.state == "open":
                    opened_at, running_then = fleet.clock.now, len(running)
        for caller in callers:
            permit = ask(caller)
            if permit is not None:
                called += 1
                probes += permit.probe
                if opened_at is not None and not permit.probe:
                    assert fleet.clock.now <= opened_at + ttl * SECOND
                    late += 1
                running.append((fleet.clock.now + microseconds(duration), permit))
        fleet.clock.advance(step)
    assert opened_at is not None
    assert running_then is not None
    bound = threshold + running_then + late + probes
    print(f"called {called}, bound {bound}: {threshold} + {running_then} running + {late} late + {probes} probes")
    assert settled == threshold
    assert called <= bound
    assert probes <= 4  # waits of 2, 4, 8, 16 s in 30 s


def test_permits_are_not_given_on_an_old_verdict_while_another_thread_asks(fleet: Fleet) -> None:
    breaker = fleet.process(cache_ttl=0.25)
    succeed(breaker)
    cache = cache_of(breaker)
    fleet.clock.advance(0.4)
    AcquireQuestion(cache, "in flight")
    assert cached_permit(cache) is None


# 2 and 3: how long it stays open


def test_the_wait_grows_once_per_opening(fleet: Fleet) -> None:
    breaker = fleet.process(failure_threshold=1)
    fail(breaker)
    waits = []
    for _ in range(5):
        waits.append(refused(breaker).retry_after)
        fleet.clock.advance(waits[-1] - 0.000_001)
        assert ask(breaker) is None
        fleet.clock.advance(0.000_001)
        probe(breaker).failure(ConnectionError())
    assert waits == [60, 120, 240, 300, 300]


def test_many_failures_in_flight_are_one_opening(fleet: Fleet) -> None:
    breaker = fleet.process(failure_threshold=5)
    for permit in [breaker.acquire() for _ in range(20)]:
        permit.failure(ConnectionError())
    assert refused(breaker).retry_after == 60
    assert breaker.get_status()["backoff_time"] == 60
    assert breaker.get_status()["failure_count"] == 5


def test_the_wait_is_never_less_than_recovery_timeout(fleet: Fleet) -> None:
    breaker = fleet.process(failure_threshold=1, recovery_timeout=50, exponential_backoff_max=10)
    fail(breaker)
    for _ in range(3):
        assert refused(breaker).retry_after == 50
        fleet.clock.advance(50)
        probe(breaker).failure()


@pytest.mark.parametrize(("quiet", "wait"), [(300, 60), (299.999, 120)])
def test_reset_timeout_without_an_opening_forgets_the_openings(fleet: Fleet, quiet: float, wait: float) -> None:
    breaker = fleet.process(failure_threshold=1, reset_timeout=300)
    fail(breaker)
    fleet.clock.advance(60)
    succeed(breaker)
    fleet.clock.advance(quiet)
    fail(breaker)
    assert refused(breaker).retry_after == wait


# 4: generations


def test_outcomes_of_another_generation_are_dropped(fleet: Fleet) -> None:
    breaker = fleet.process(failure_threshold=2)
    before = [breaker.acquire() for _ in range(6)]
    fail(breaker, 2)
    before.pop().failure(ConnectionError())
    before.pop().success()
    assert breaker.get_status()["failure_count"] == 2
    fleet.clock.advance(60)
    trying = probe(breaker)
    before.pop().success()
    assert breaker.state == "half_open", "a success from before the outage does not close it"
    before.pop().failure(ConnectionError())
    assert breaker.state == "half_open"
    trying.success()
    before.pop().failure(ConnectionError())
    before.pop().failure(ConnectionError())
    assert breaker.get_status()["failure_count"] == 0


@pytest.mark.parametrize("openings", [0, 1])
@pytest.mark.every_store
def test_a_generation_is_not_used_again_after_the_store_was_flushed(fleet: Fleet, openings: int) -> None:
    breaker = fleet.process(failure_threshold=1)
    for _ in range(openings):
        fail(breaker)
        fleet.clock.advance(60)
        succeed(breaker)
    before = [breaker.acquire() for _ in range(2)]
    fail(breaker)
    fleet.store.clear()
    for permit in before:
        permit.failure(ConnectionError())
    assert fleet.process().state == "closed"


def test_an_outcome_from_before_a_reset_is_dropped(fleet: Fleet) -> None:
    breaker = fleet.process(failure_threshold=1)
    fail(breaker)
    fleet.clock.advance(60)
    succeed(breaker)
    before = breaker.acquire()
    breaker.reset()
    before.failure(ConnectionError())
    assert breaker.get_status()["failure_count"] == 0


def test_no_permit_rests_on_a_record_that_was_reset(fleet: Fleet) -> None:
    here, there = fleet.processes(2, failure_threshold=1)
    before = here.acquire()
    there.reset()
    before.failure(ConnectionError())  # dropped; and nobody has asked since the reset
    early = here.acquire()
    fail(there)
    fleet.clock.advance(60)
    probe(there)
    early.failure(ConnectionError())
    assert there.state == "half_open"


def test_a_reset_is_seen_elsewhere_within_a_second(fleet: Fleet) -> None:
    here, there = fleet.processes(2, failure_threshold=1)
    fail(here)
    assert ask(there) is None
    here.reset()
    succeed(here)
    fleet.clock.advance(1)
    succeed(there)


# 5: probes


@pytest.mark.parametrize("places", [1, 3])
def test_at_most_so_many_probes_fleet_wide(fleet: Fleet, places: int) -> None:
    callers = fleet.processes(8, failure_threshold=1, half_open_max_calls=places)
    fail(callers[0])
    fleet.clock.advance(60)
    probes = [permit for permit in map(ask, callers) if permit is not None]
    assert len(probes) == places
    assert all(permit.probe for permit in probes)
    assert callers[0].get_status()["half_open_calls"] == places


def test_a_dead_prober_frees_its_place_at_the_deadline(fleet: Fleet) -> None:
    dead, other = fleet.processes(2, failure_threshold=1, probe_timeout=30)
    fail(dead)
    fleet.clock.advance(60)
    probe(dead)
    assert refused(other).state == "half_open"
    fleet.clock.advance(29.999_999)
    assert ask(other) is None
    fleet.clock.advance(0.000_001)
    probe(other)


@pytest.mark.parametrize(("outcome", "state"), [("success", "closed"), ("failure", "open")])
def test_an_ended_lease_frees_the_place_not_the_testimony(fleet: Fleet, outcome: str, state: str) -> None:
    slow, other = fleet.processes(2, failure_threshold=1, probe_timeout=30)
    fail(slow)
    fleet.clock.advance(60)
    late = probe(slow)
    fleet.clock.advance(31)
    probe(other)
    getattr(late, outcome)()
    assert other.state == state


def test_a_refused_probe_writes_nothing(store: Backend, clock: ManualClock) -> None:
    fleet = Fleet(store, clock)
    prober, other = fleet.processes(2, failure_threshold=1)
    fail(prober)
    clock.advance(60)
    probe(prober)
    before = read_record(cache_of(prober))
    assert ask(other) is None
    assert read_record(cache_of(prober)) == before


def test_one_lease_id_holds_one_place(fleet: Fleet) -> None:
    breaker = fleet.process(failure_threshold=1, half_open_max_calls=2)
    fail(breaker)
    fleet.clock.advance(60)
    first, again = breaker.acquire("task-1"), breaker.acquire("task-1")
    assert first.probe
    assert again.probe
    assert breaker.get_status()["half_open_calls"] == 1


def test_so_many_probes_have_to_succeed(fleet: Fleet) -> None:
    breaker = fleet.process(failure_threshold=1, success_threshold=2)
    fail(breaker)
    fleet.clock.advance(60)
    succeed(breaker)
    assert breaker.state == "half_open"
    succeed(breaker)
    assert breaker.state == "closed"


# 6: every outcome settles its permit


class NotFound(Exception):
    pass


class Teapot(Exception):
    pass


OUTCOMES = [
    (ConnectionError(), "open"),
    (NotFound(), "closed"),
    (Teapot(), "half_open"),
    (KeyError(), "half_open"),  # not expected
    (KeyboardInterrupt(), "half_open"),
    (SystemExit(), "half_open"),
    (asyncio.CancelledError(), "half_open"),
]


def half_open(fleet: Fleet, **options: Any) -> CircuitBreaker:
    breaker = fleet.process(
        failure_threshold=1,
        expected_exception=(ConnectionError, Teapot),
        ignored_exceptions=Teapot,
        success_exceptions=NotFound,
        **options,
    )
    fail(breaker)
    fleet.clock.advance(60)
    return breaker


def by_call(breaker: CircuitBreaker, error: BaseException) -> None:
    def function() -> None:
        raise type(error)()

    breaker.call(function)


def by_with(breaker: CircuitBreaker, error: BaseException) -> None:
    with breaker:
        raise type(error)()


def by_async_function(breaker: CircuitBreaker, error: BaseException) -> None:
    @breaker
    async def function() -> None:
        await asyncio.sleep(0)
        raise type(error)()

    drive(function())


def by_awaitable_result(breaker: CircuitBreaker, error: BaseException) -> None:
    async def function() -> None:
        await asyncio.sleep(0)
        raise type(error)()

    async def main() -> None:
        await breaker.call(partial(function))

    drive(main())


def drive(coroutine: Any) -> None:
    """Run it as the event loop would, also where that would take KeyboardInterrupt for itself."""
    with asyncio.Runner() as runner:
        runner.run(coroutine)


WAYS = [by_call, by_with, by_async_function, by_awaitable_result]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("error", "state"), OUTCOMES, ids=lambda value: type(value).__name__)
def test_every_outcome_settles_its_probe(
    fleet: Fleet, way: Callable[[CircuitBreaker, BaseException], None], error: BaseException, state: str
) -> None:
    breaker = half_open(fleet)
    with pytest.raises(type(error)):
        way(breaker, error)
    status = breaker.get_status()
    assert (status["state"], status["half_open_calls"]) == (state, 0)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("error", "state"), OUTCOMES[1:], ids=lambda value: type(value).__name__)
def test_what_is_no_failure_is_not_counted(
    fleet: Fleet, way: Callable[[CircuitBreaker, BaseException], None], error: BaseException, state: str
) -> None:
    breaker = half_open(fleet)
    succeed(breaker)
    with pytest.raises(type(error)):
        way(breaker, error)
    assert breaker.state == "closed"


def test_a_result_can_be_a_failure(fleet: Fleet) -> None:
    breaker = half_open(fleet, is_failure=lambda result: result is None)
    assert breaker.call(lambda: None) is None
    assert (breaker.state, breaker.get_status()["failure_count"]) == ("open", 2)
    fleet.clock.advance(120)
    breaker.call(lambda: 5)
    assert breaker.state == "closed"


def test_a_predicate_that_raises_gives_the_probe_back(fleet: Fleet) -> None:
    breaker = half_open(fleet, is_failure=lambda result: result["missing"])
    with pytest.raises(KeyError):
        breaker.call(lambda: {})
    assert breaker.get_status()["half_open_calls"] == 0


def test_a_permit_is_settled_once(fleet: Fleet) -> None:
    breaker = fleet.process(failure_threshold=2)
    permit = breaker.acquire()
    permit.failure()
    permit.failure()
    permit.success()
    assert breaker.get_status()["failure_count"] == 1


# 9: transitions are reported once, by who caused them


def test_each_transition_is_reported_once(fleet: Fleet, happened: list[Event]) -> None:
    one, other = fleet.processes(2, failure_threshold=2)
    permits = [breaker.acquire() for breaker in (one, other) for _ in range(5)]
    for permit in permits:
        permit.failure()
    fleet.clock.advance(60)
    trying = probe(other)
    assert ask(one) is None
    trying.success()
    fleet.clock.advance(1)
    succeed(one)
    assert [(event.old, event.new) for event in happened if isinstance(event, StateChanged)] == [
        ("closed", "open"),
        ("open", "half_open"),
        ("half_open", "closed"),
    ]
    assert happened[0] == StateChanged("upstream", "closed", "open", failure_count=2, retry_after=60)


def test_a_subscriber_that_fails_harms_nobody(
    fleet: Fleet, happened: list[Event], caplog: pytest.LogCaptureFixture
) -> None:
    unsubscribe = events.subscribe(lambda event: 1 / 0)
    fail(fleet.process(failure_threshold=1))
    unsubscribe()
    assert len(happened) == 1
    assert "ZeroDivisionError" in caplog.text


class TimeLimit(Exception):
    """What a signal's handler may raise anywhere."""


interruptions.add(TimeLimit)


@pytest.mark.parametrize("waits", [True, False])
def test_what_a_signals_handler_raises_while_subscribers_are_told_reaches_the_caller(fleet: Fleet, waits: bool) -> None:
    def tell(event: Event) -> None:
        raise TimeLimit

    async def atell(event: Event) -> None:
        raise TimeLimit

    breaker = fleet.process(failure_threshold=1)
    permit = breaker.acquire()
    unsubscribe = events.subscribe(tell, atell)
    with pytest.raises(TimeLimit):
        permit.failure() if waits else asyncio.run(permit.afailure())
    unsubscribe()
    refused(breaker)


# 10: Retry-After


def too_many(retry_after: str) -> requests.HTTPError:
    response = requests.Response()
    response.status_code = 429
    response.headers["Retry-After"] = retry_after
    return requests.HTTPError(response=response)


def test_retry_after_in_seconds_opens_for_exactly_that_long(fleet: Fleet) -> None:
    here, there = fleet.processes(2, respect_retry_after=True)
    assert here.acquire().failure(too_many("17")) == 17
    assert refused(there).retry_after == 17
    assert there.get_status()["backoff_time"] == 17
    assert refused(there).recovery_time == 17
    fleet.clock.advance(17)
    probe(there)


def test_retry_after_as_a_date_opens_until_then(fleet: Fleet) -> None:
    breaker = fleet.process(respect_retry_after=True)
    then = datetime.now(UTC) + timedelta(minutes=10)
    breaker.acquire().failure(too_many(format_datetime(then, usegmt=True)))
    assert 590 < refused(breaker).retry_after <= 600


def test_a_probe_that_is_told_to_come_later_opens_for_that_long(fleet: Fleet) -> None:
    breaker = fleet.process(respect_retry_after=True, failure_threshold=1)
    fail(breaker)
    fleet.clock.advance(60)
    probe(breaker).failure(too_many("7"))
    assert refused(breaker).retry_after == 7


@pytest.mark.parametrize("nonsense", ["soon", "-5", "nan", "inf", "1e300", "Wed, 21 Oct 2015 07:28:00 GMT", ""])
def test_a_nonsensical_retry_after_is_a_plain_failure(fleet: Fleet, nonsense: str) -> None:
    breaker = fleet.process(respect_retry_after=True, failure_threshold=2)
    breaker.acquire().failure(too_many(nonsense))
    assert breaker.state == "closed"
    assert breaker.get_status()["failure_count"] == 1


def test_retry_after_is_obeyed_only_if_asked_to(fleet: Fleet) -> None:
    breaker = fleet.process()
    breaker.acquire().failure(too_many("17"))
    assert breaker.state == "closed"


# Rates: the same promises for a share of failures over a window


def test_a_failure_rate_opens_it_fleet_wide(fleet: Fleet) -> None:
    one, other = fleet.processes(2, failure_threshold=100, failure_rate=0.5, minimum_calls=10, cache_ttl=0)
    for _ in range(4):
        succeed(one)
        fail(other)
        fleet.clock.advance(0.001)
    succeed(one)
    assert other.state == "closed", "the ninth call"
    fail(other)
    assert other.state == "open"


def test_slow_calls_open_it(fleet: Fleet) -> None:
    breaker = fleet.process(slow_call_duration=2, slow_call_rate=0.5, minimum_calls=4)

    def slow() -> None:
        fleet.clock.advance(2)

    for function in (slow, lambda: None, lambda: None, slow):
        breaker.call(function)
    assert breaker.state == "open"


def test_refusal_tells_the_truth(fleet: Fleet) -> None:
    breaker = fleet.process(failure_threshold=2)
    fail(breaker, 2)
    now = fleet.clock.now / SECOND
    error = refused(breaker)
    assert isinstance(error, CircuitBreakerError)
    assert (error.breaker_name, error.state, error.failure_count, error.recovery_time) == ("upstream", "open", 2, 60)
    assert (error.last_failure_time, error.next_attempt_time) == (now, now + 60)
