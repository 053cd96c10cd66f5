"""How the outcome of a call is judged and reported."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from .._util.clock import SECOND, microseconds
from ..config.breaker import CircuitBreakerConfig
from ..errors import BackendError, CircuitBreakerError, RateLimitExceeded
from ..policies.circuit_breaker import REPORT
from ..protocol.breaker import BreakerEvent, BreakerVerdict
from ..protocol.call import Call
from ..retry_after import parse_retry_after
from ..store.drive import Steps
from .announce import apply_and_announce
from .cache import BreakerCache

RECORDED_ATTR = "_resilience_recorded"
"""An error's attribute: when each breaker recorded it, by name. So a call within a call fails once."""


class Issued(Protocol):
    """What settling has to know of a permit."""

    generation: int
    lease_id: str
    probe: bool
    local: bool
    extra_calls: Sequence[Call]


def classify(config: CircuitBreakerConfig, error: BaseException | None) -> bool | None:
    """Return True for a success, False for a failure, and None for an outcome that does not count."""
    if error is None or isinstance(error, config.success_exceptions):
        return True
    if isinstance(error, CircuitBreakerError | RateLimitExceeded):
        return None  # another call was rejected or denied; that says nothing about this dependency
    if isinstance(error, config.expected_exception) and not isinstance(error, config.ignored_exceptions):
        return False
    return None


def already_recorded(config: CircuitBreakerConfig, error: BaseException, since: int) -> bool:
    """Return whether this error was recorded as a failure of this breaker since then."""
    return bool(getattr(error, RECORDED_ATTR, {}).get(config.name, -1) >= since)


def count_locally(cache: BreakerCache, permit: Issued) -> bool:
    """Count a success that can be reported later. Return False if it has to be reported now, and is not counted."""
    if cache.failure_count or cache.config.slow_call_duration is not None:
        return False
    cache.successes += 1
    cache.add_pending_success(permit.generation, permit.local)
    return True


def settle_steps(
    cache: BreakerCache,
    permit: Issued,
    took: int,
    *,
    successes: int = 0,
    failures: int = 0,
    error: BaseException | None = None,
) -> Steps[float]:
    """Report an outcome, now or with the next question. Return the seconds until the next probe, or 0.

    Args:
        cache: what this process knows of the breaker.
        permit: the permit of the call.
        took: how many µs the call took.
        successes, failures: 1 for what it was; neither if nothing can be said.
        error: what the call raised.
    """
    config = cache.config
    slow_from = config.slow_call_duration
    slow_calls = int(successes + failures > 0 and slow_from is not None and took >= slow_from * SECOND)
    cache.successes += successes
    cache.failures += failures
    if not permit.probe and not failures and not slow_calls:
        if successes and cache.add_pending_success(permit.generation, permit.local) and cache.failure_count:
            cache.failure_count = 0  # one thread is enough to report it at once, before the next failure elsewhere
            yield from report_steps(cache, permit)
            return 0.0
        if permit.extra_calls:
            yield "apply_best_effort", permit.extra_calls, permit.local
        return 0.0
    duration = 0
    if failures and error is not None:
        if config.respect_retry_after:
            duration = microseconds(parse_retry_after(error) or 0)
        with suppress(AttributeError):  # an error with slots
            error.__dict__.setdefault(RECORDED_ATTR, {})[config.name] = cache.clock()
    wait = yield from report_steps(
        cache, permit, successes=successes, failures=failures, slow_calls=slow_calls, duration=duration
    )
    return wait / SECOND


def report_steps(
    cache: BreakerCache,
    permit: Issued,
    *,
    successes: int = 0,
    failures: int = 0,
    slow_calls: int = 0,
    duration: int = 0,
) -> Steps[int]:
    """Report an outcome and the pending successes in one round trip. Return the µs until the next probe, or 0."""
    pending = age = 0
    if cache.is_current(permit.generation, permit.local):
        pending = cache.take_pending()
        age = cache.clock() - cache.last_success_at if pending and not successes else 0
    event = BreakerEvent(REPORT, permit.generation, pending + successes, age, failures, slow_calls, duration)
    call = cache.call(event, permit.lease_id)
    if permit.local:
        return (yield from _report_locally(cache, permit, call))
    local = False
    try:
        verdicts = yield "apply", [call, *permit.extra_calls]
    except BackendError:  # the extra calls are lost: a lease ends by itself
        wait = _wait_without_store(cache)
        if wait is not None:
            return wait
        local = True
        verdict = _apply_in_present_generation(cache, event)
    else:
        verdict = BreakerVerdict._make(verdicts[0])
    yield from apply_and_announce(cache, verdict, local=local, written=True, asked=False)
    return verdict.wait


def _report_locally(cache: BreakerCache, permit: Issued, call: Call) -> Steps[int]:
    """Report the outcome of a permit that was issued without the store. The store's verdict wins once it is back."""
    outdated = not cache.cached.local  # the permit is of an earlier outage: what the store has said since is honoured
    if outdated and cache.store.available:  # else the store may be available, and too busy
        wait: int | None = 0
    else:
        wait = _wait_without_store(cache, honour_opening=outdated)
    if wait is not None:
        yield "apply_best_effort", permit.extra_calls, True
        return wait
    verdict = BreakerVerdict._make(cache.store.local.apply([call, *permit.extra_calls])[0])
    yield from apply_and_announce(cache, verdict, local=True, written=True, asked=False)
    return verdict.wait


def _wait_without_store(cache: BreakerCache, *, honour_opening: bool = True) -> int | None:
    """Return None if an outcome counts in this process. Else return the µs until the next probe, or 0."""
    if cache.config.on_store_failure != "local" or cache.override_allows():
        return 0
    wait = cache.open_for(cache.clock()) if honour_opening else 0
    return wait if wait > 0 else None  # a call that began before a known opening changes nothing


def _apply_in_present_generation(cache: BreakerCache, event: BreakerEvent) -> BreakerVerdict:
    """Record in this process an outcome that the store can't be told, in the generation of this process."""
    memory = cache.store.local
    present = BreakerVerdict._make(memory.apply([cache.peek_call()])[0])
    return BreakerVerdict._make(memory.apply([cache.call(event._replace(generation=present.generation))])[0])


def report_external(
    cache: BreakerCache, error: BaseException | None, started_ago: float, lease_id: str, extra_calls: Sequence[Call]
) -> Steps[None]:
    """Take the steps of :meth:`CircuitBreaker.report_external`."""
    failures = int(error is not None)
    cache.failures += failures
    event = BreakerEvent(REPORT, success_age=microseconds(started_ago), failures=failures)
    try:
        verdicts = yield "apply", [cache.call(event, lease_id), *extra_calls]
    except BackendError:  # a lease ends by itself
        return
    verdict = BreakerVerdict._make(verdicts[0])
    yield from apply_and_announce(cache, verdict, local=False, written=True, asked=False)
