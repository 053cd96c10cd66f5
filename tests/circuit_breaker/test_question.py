"""The question for a permit as a guard asks it: in one round trip with other calls, which may be denied."""

from __future__ import annotations

from typing import Any

import pytest

from ratelimit_core import CircuitBreaker, CircuitBreakerError
from ratelimit_core.backends import MemoryBackend
from ratelimit_core.circuit_breaker.acquire import AcquireQuestion, cached_permit
from ratelimit_core.circuit_breaker.breaker import cache_of
from ratelimit_core.circuit_breaker.operator import read_record
from ratelimit_core.errors import BackendError
from ratelimit_core.store.drive import drive
from ratelimit_core.testing import ManualClock
from tests.circuit_breaker.fleet import Fleet, fail, succeed


@pytest.fixture
def fleet(clock: ManualClock) -> Fleet:
    return Fleet(MemoryBackend(clock=clock), clock)


def with_pending(fleet: Fleet, successes: int, **options: Any) -> CircuitBreaker:
    """A breaker with successes that the store has not been told, and that has to ask."""
    breaker = fleet.process(**options)
    succeed(breaker, successes)
    fleet.clock.advance(1)
    assert cache_of(breaker).pending_successes == successes
    return breaker


def test_what_is_acquired_is_a_permit_and_the_store_has_the_successes(fleet: Fleet) -> None:
    breaker = with_pending(fleet, 3, failure_rate=0.5)
    cache = cache_of(breaker)
    question = AcquireQuestion(cache, "lease")
    permit = drive(question.on_verdicts(cache.store.apply(question.calls), allowed=True), cache.store)
    assert permit is not None
    assert not permit.probe
    assert (read_record(cache).calls, cache.pending_successes) == (3, 0)
    assert cached_permit(cache) is not None


def test_a_probe_holds_the_lease_that_the_question_names(fleet: Fleet) -> None:
    breaker = fleet.process(failure_threshold=1)
    fail(breaker)
    fleet.clock.advance(60)
    cache = cache_of(breaker)
    question = AcquireQuestion(cache, "lease")
    permit = drive(question.on_verdicts(cache.store.apply(question.calls), allowed=True), cache.store)
    assert permit is not None
    assert (permit.probe, permit.lease_id) == (True, "lease")
    permit.success()
    assert breaker.state == "closed"


def test_a_refusal_is_raised_also_if_another_call_was_denied(fleet: Fleet) -> None:
    breaker = fleet.process(failure_threshold=1)
    fail(breaker)
    cache = cache_of(breaker)
    for others in (True, False):
        question = AcquireQuestion(cache, "lease")
        verdicts = cache.store.apply(question.calls)
        with pytest.raises(CircuitBreakerError) as caught:
            drive(question.on_verdicts(verdicts, allowed=others and bool(verdicts[0][0])), cache.store)
        assert caught.value.retry_after == 60
    assert breaker.stats["rejections"] == 2


def test_another_call_that_is_denied_leaves_the_successes_and_what_is_known(fleet: Fleet) -> None:
    breaker = with_pending(fleet, 3, failure_rate=0.5)
    cache = cache_of(breaker)
    question = AcquireQuestion(cache, "lease")
    undone = [read_record(cache)]  # what a question is answered that writes nothing
    assert drive(question.on_verdicts(undone, allowed=False), cache.store) is None
    assert (read_record(cache).calls, cache.pending_successes) == (0, 3)
    assert cached_permit(cache) is not None, "what the store said can be used all the same"


@pytest.mark.parametrize(("choice", "expected"), [("local", True), ("allow", True), ("deny", False)])
def test_without_the_store_it_is_answered_by_configuration(fleet: Fleet, choice: str, expected: bool) -> None:
    breaker = with_pending(fleet, 3, on_store_failure=choice)
    cache = cache_of(breaker)
    question = AcquireQuestion(cache, "lease")
    error = BackendError("told to fail")
    error.retry_after = 5.0
    steps = question.on_unavailable(error)
    if not expected:
        with pytest.raises(CircuitBreakerError) as caught:
            drive(steps, cache.store)
        assert caught.value.retry_after == 5
    else:
        assert drive(steps, cache.store).local


def test_a_known_opening_is_honoured_without_the_store(fleet: Fleet) -> None:
    breaker = fleet.process(failure_threshold=1)
    fail(breaker)
    fleet.clock.advance(10)
    cache = cache_of(breaker)
    with pytest.raises(CircuitBreakerError) as caught:
        drive(AcquireQuestion(cache, "lease").on_unavailable(BackendError("told to fail")), cache.store)
    assert caught.value.retry_after == 50


def test_a_question_that_was_not_asked_leaves_the_successes(fleet: Fleet) -> None:
    cache = cache_of(with_pending(fleet, 3))
    question = AcquireQuestion(cache, "lease")
    assert cache.pending_successes == 0
    question.on_discarded()
    assert cache.pending_successes == 3
