"""The base class of protected tasks: asks before the body runs, and settles by what came of it."""

from __future__ import annotations

import random
import sys
import time
from datetime import datetime
from typing import Any, NoReturn

from celery import Task
from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded
from celery.utils.time import maybe_make_aware

from ratelimit_core.backoff import retry_after_of
from ratelimit_core.errors import CircuitBreakerError, RateLimited
from ratelimit_core.guard import Leave
from ratelimit_core.limits import Decision

from .protection import Protection
from .waiting import Waiting, put_off

_PATIENCE = 0.05
"""Seconds that a run waits in place for a slot: to be put off and delivered again would cost more."""

_LEAVE = "_resilience_leave"  # where the request under way keeps its leave, for `retry()` to find


class ResilientTask(Task):  # type: ignore[type-arg] # Celery's own class takes no parameters at run time
    """A task behind a :class:`Protection`; without one it is an ordinary task.

    In a worker a refused run is put off, as ``on_open`` says; called directly or eagerly it raises
    :class:`~ratelimit_core.CircuitBreakerError` or :class:`~ratelimit_core.RateLimited`, since there is
    nowhere to wait.
    """

    abstract = True
    resilience: Protection | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the body, if it may run now."""
        protection = self.resilience
        request = self.request
        if protection is None or getattr(request, _LEAVE, None) is not None:
            return self._body(request, args, kwargs)
        waiting = Waiting.of(request.headers)
        try:
            leave = self._acquire(protection, args, kwargs, waiting)
        except CircuitBreakerError as refusal:
            return self._refused(protection, refusal, args, kwargs)
        setattr(request, _LEAVE, leave)
        try:
            result = leave.run(self._body, request, args, kwargs)
        except Retry as retry:  # of a task that called `retry()` on another task's request, or raised its own
            self._settle(leave, retry.exc)
            raise
        except (Ignore, Reject):
            leave.cancel()
            raise
        except Exception as error:
            if isinstance(error, tuple(protection.options.retry_for)) and self._may_wait and not leave.settled:
                raise self.retry(exc=error, countdown=protection.options.backoff.delay(request.retries)) from error
            self._settle(leave, error)
            raise
        except BaseException as error:  # the process is going down: nothing is said about the call
            leave.judge(error)
            raise
        finally:
            setattr(request, _LEAVE, None)
        leave.judge_result(result)
        return result

    def _body(self, request: Any, args: Any, kwargs: Any) -> Any:
        inherited: Any = super().__call__
        if request.called_directly or inherited.__func__ is not Task.__call__:
            return inherited(*args, **kwargs)
        return self.run(*args, **kwargs)  # Celery's own `__call__` would hide the worker's request

    @property
    def _may_wait(self) -> bool:
        return not (self.request.called_directly or self.request.is_eager)

    def _acquire(self, protection: Protection, args: Any, kwargs: Any, waiting: Waiting) -> Leave:
        """Leave to run now; where a limit is reached, the next slot is reserved and the task put off."""
        patience = _PATIENCE
        slot = waiting.decision()
        while True:
            try:
                return protection.acquire(args, kwargs, slot)
            except RateLimited as refusal:
                if not self._may_wait:
                    raise
                left = max(patience, waiting.left(protection.options.max_wait, protection.options.max_deferrals))
                wait, slot = self._next_slot(protection, refusal, args, kwargs, slot, left)
                if wait > patience:
                    self._put_off(refusal.waiting(wait), wait, slot=slot)
                patience -= max(wait, 0.001)
                time.sleep(wait)

    def _next_slot(
        self,
        protection: Protection,
        refusal: RateLimited,
        args: Any,
        kwargs: Any,
        slot: Decision | None,
        max_wait: float,
    ) -> tuple[float, Decision | None]:
        """How long to wait for the limit that refused, and the slot that will be ours then."""
        limiter, options = protection.limiter, protection.options
        if slot is not None and refusal.keeps_slot:
            return refusal.retry_after, slot  # it is not yet time for it
        if limiter is None or not limiter.limits[refusal.which].reservable:
            # Nobody knows when a place to run will be free: look again now and then.
            return min(refusal.retry_after, 5.0) * random.uniform(0.5, 1.0) + 0.1, slot
        key = protection.key(args, kwargs)
        ticket = slot.ticket if slot is not None else ""
        slot = limiter.reserve(max_wait, options.cost, key=key, ticket=ticket, on=refusal.which)
        return slot.retry_after, slot if slot.allowed else None

    def _refused(self, protection: Protection, refusal: CircuitBreakerError, args: Any, kwargs: Any) -> Any:
        on_open = protection.options.on_open
        if callable(on_open):
            return on_open(*args, **kwargs)
        if on_open == "skip":
            return protection.options.skip_result
        if on_open == "fail" or not self._may_wait:
            raise refusal
        self._put_off_until_probe(protection, refusal)

    def retry(
        self,
        args: Any = None,
        kwargs: Any = None,
        exc: Exception | None = None,
        throw: bool = True,
        eta: datetime | None = None,
        countdown: float | None = None,
        max_retries: int | None = None,
        **options: Any,
    ) -> Retry:
        """Celery's ``retry()``, which a failure is judged by, and which an outage does not spend.

        If the failure opened the breaker, or finds it open, the task is put off until the next probe and
        ``retries`` stays as it is. Else it is retried, and no sooner than a ``Retry-After`` of ``exc`` says.
        """
        leave: Leave | None = getattr(self.request, _LEAVE, None)
        error = exc if exc is not None else sys.exc_info()[1]
        protection = self.resilience
        if leave is not None and protection is not None:
            until_probe = self._settle(leave, error)
            asked = (retry_after_of(error) if error is not None else None) or 0.0
            if until_probe > 0 and self._may_wait and protection.breaker is not None:
                refusal = protection.breaker.refusal(until_probe)
                refusal.__cause__ = error
                at_least = max(asked, countdown or 0.0)
                if eta is not None:
                    at_least = max(at_least, maybe_make_aware(eta).timestamp() - time.time())
                try:
                    self._put_off_until_probe(protection, refusal, at_least, args=args, kwargs=kwargs, options=options)
                except Retry as retry:
                    if throw:
                        raise
                    return retry
            if asked and eta is None:
                countdown = max(asked, self.default_retry_delay if countdown is None else countdown)
        return super().retry(args, kwargs, exc, throw, eta, countdown, max_retries, **options)

    @staticmethod
    def _settle(leave: Leave, error: BaseException | None) -> float:
        if error is None:
            leave.cancel()
            return 0.0
        if isinstance(error, SoftTimeLimitExceeded):
            return leave.fail(error)  # whatever else the breaker expects
        return leave.judge(error)

    def _put_off_until_probe(
        self,
        protection: Protection,
        refusal: CircuitBreakerError,
        at_least: float = 0.0,
        **republish: Any,
    ) -> NoReturn:
        """Wait until the next probe, and for a turn of one's own after it, lest all come back at once."""
        wait = refusal.retry_after
        turn = protection.release.reserve(protection.options.max_wait, floor=wait)
        wait = max(at_least, turn.retry_after if turn.allowed else wait)
        self._put_off(refusal.waiting(wait), wait, **republish)

    def _put_off(self, refusal: CircuitBreakerError | RateLimited, wait: float, **republish: Any) -> NoReturn:
        assert self.resilience is not None
        options = self.resilience.options
        put_off(self, refusal, wait, max_wait=options.max_wait, max_deferrals=options.max_deferrals, **republish)
