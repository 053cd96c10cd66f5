"""Classify the outcome of a call, and report it to the store."""

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
"""The attribute of an error that maps each breaker's name to the time at which the breaker recorded the error.

If a guarded call contains another call through the same breaker, an error that both calls raise is recorded once.
"""


class Issued(Protocol):
    """The fields of a permit that this module needs."""

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
        return None  # a breaker or a limit stopped an inner call, which says nothing about this dependency
    if isinstance(error, config.expected_exception) and not isinstance(error, config.ignored_exceptions):
        return False
    return None


def already_recorded(config: CircuitBreakerConfig, error: BaseException, since: int) -> bool:
    """Return whether this breaker recorded ``error`` as a failure at ``since`` or later. Times are µs."""
    return bool(getattr(error, RECORDED_ATTR, {}).get(config.name, -1) >= since)


def count_locally(cache: BreakerCache, permit: Issued) -> bool:
    """Count a success without reporting it now, and return True.

    Return False, and count nothing, if the success may have to be reported now.
    """
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
    """Report an outcome. Return the seconds until the next probe, or 0.

    A success may be kept, and reported with the next request to the store.

    Args:
        cache: the breaker's cache in this process.
        permit: the permit of the call.
        took: the duration of the call, in µs.
        successes, failures: ``1, 0`` for a success, ``0, 1`` for a failure, ``0, 0`` if the outcome does not count.
        error: the exception that the call raised, or None.
    """
    config = cache.config
    slow_from = config.slow_call_duration
    slow_calls = int(successes + failures > 0 and slow_from is not None and took >= slow_from * SECOND)
    cache.successes += successes
    cache.failures += failures
    if not permit.probe and not failures and not slow_calls:
        if successes and cache.add_pending_success(permit.generation, permit.local) and cache.failure_count:
            # Report this success now, so that later failures in other processes are not counted as consecutive. One
            # report is enough, so other threads need not report their successes now.
            cache.failure_count = 0
            yield from report_steps(cache, permit)
            return 0.0
        if permit.extra_calls:
            yield "apply_best_effort", permit.extra_calls, permit.local
        return 0.0
    duration = 0
    if failures and error is not None:
        if config.respect_retry_after:
            duration = microseconds(parse_retry_after(error) or 0)
        with suppress(AttributeError):  # an error that has slots has no `__dict__`
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
    """Report an outcome and the pending successes. Return the µs until the next probe, or 0.

    Costs one round trip, and one more for the history if the report changes the breaker's state. A report for a
    permit that was issued without the store costs none.
    """
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
    except BackendError:  # the extra calls are lost, but they only release leases, which end by themselves
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
    """Report the outcome of a permit that was issued without the store. Return the µs until the next probe, or 0.

    If the store has answered since the permit was issued, the store's verdict takes precedence over the outcome.
    """
    outdated = not cache.cached.local  # the store has answered since the permit was issued
    # `available` alone does not suffice: a store that is available may have been too busy to answer this process.
    if outdated and cache.store.available:
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
    """Return None if the outcome counts in this process, otherwise the µs until the next probe, or 0.

    With ``honour_opening``, no outcome counts while the breaker is known to be open.
    """
    if cache.config.on_store_failure != "local" or cache.override_allows():
        return 0
    wait = cache.open_for(cache.clock()) if honour_opening else 0
    return wait if wait > 0 else None  # the call began before the breaker opened, so its outcome changes nothing


def _apply_in_present_generation(cache: BreakerCache, event: BreakerEvent) -> BreakerVerdict:
    """Record an outcome in this process, because the store is unavailable. Return the verdict.

    The outcome counts in the present generation of this process, even if the permit belongs to another generation.
    """
    memory = cache.store.local
    present = BreakerVerdict._make(memory.apply([cache.peek_call()])[0])
    return BreakerVerdict._make(memory.apply([cache.call(event._replace(generation=present.generation))])[0])


def report_external(
    cache: BreakerCache, error: BaseException | None, started_ago: float, lease_id: str, extra_calls: Sequence[Call]
) -> Steps[None]:
    """Return the steps of :meth:`CircuitBreaker.report_external`."""
    failures = int(error is not None)
    cache.failures += failures
    event = BreakerEvent(REPORT, success_age=microseconds(started_ago), failures=failures)
    try:
        verdicts = yield "apply", [cache.call(event, lease_id), *extra_calls]
    except BackendError:  # this report is lost, but the leases end by themselves
        return
    verdict = BreakerVerdict._make(verdicts[0])
    yield from apply_and_announce(cache, verdict, local=False, written=True, asked=False)
