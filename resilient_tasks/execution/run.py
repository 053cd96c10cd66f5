"""One run of a protected task: it asks before the body, settles after it, and defers itself."""

from __future__ import annotations

import hashlib
import logging
import os
import random
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NoReturn

from celery.exceptions import Ignore, SoftTimeLimitExceeded

from ratelimit_core._util import clock
from ratelimit_core._util.clock import SECOND
from ratelimit_core._util.ids import new_id
from ratelimit_core._util.interrupts import interruptions
from ratelimit_core.errors import CircuitBreakerError, RateLimitExceeded
from ratelimit_core.guard import Admission
from ratelimit_core.limiter import Decision

from ..protection import Protection
from ..queues import longest_countdown
from ..signals import rate_limited, task_resumed
from .dead_letters import bury
from .deferral import DeferralFailed, MaxWaitExceeded, late_by, put_off, until_it_expires
from .wait_header import SLOT, Waiting

if TYPE_CHECKING:
    from celery import Task

logger = logging.getLogger("resilient_tasks")
interruptions.add(SoftTimeLimitExceeded)

PROBE = "resilience_probe"
"""The header in which the consumer tells a run of the probe's place that it holds for it. Never published."""

_PATIENCE = 0.1
"""Seconds that a run waits in place for a slot: to be put off and delivered again would cost more."""
_EARLY = 0.04
"""Seconds by which it is back before its slot, and waits in place: one that is late holds up those behind it."""
_MAY_BE_LATE = 60.0
"""Seconds after which a call that was to be back does not keep others with its arguments from waiting any more."""
_WITHOUT_SLOT = 10.0
"""Seconds that a task waits at most for its next try of its own accord, while it would miss a slot."""


class DuplicateTask(Exception):
    """Another call with the same arguments is waiting, so this one ends here."""


class Refused(Ignore):
    """The breaker is open, so the message goes back to its queue, which the worker is about to pause.

    The worker's own process acts on it (:meth:`ResilientRequest.on_failure`); what it says is the refusal. Celery logs
    each ``Reject`` with a traceback, and there may be very many of these.
    """


def lease_id_of(task_id: str, hostname: str, pid: int) -> str:
    """Return the id of the leases of a run in a pool's process. Its worker can derive it after the run is killed."""
    name = f"{task_id}@{hostname}:{pid}"
    return (
        name
        if len(name) <= 120 and name.isascii()
        else hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    )


runs: ContextVar[tuple[Run, ...]] = ContextVar("runs", default=())
"""The runs whose bodies are running in this thread."""
running_here: set[Run] = set()
"""The runs whose bodies are running in this process: a worker's own, unless its pool has processes."""


class Run:
    """One run of a task. If it may not wait (eagerly, called directly), a rejection or denial is an error."""

    def __init__(self, task: Task[..., Any], protection: Protection, args: Any, kwargs: Any) -> None:
        self.task = task
        self.request: Any = task.request
        self.protection = protection
        self.options = protection.options
        self.args, self.kwargs = args, kwargs
        self.subject = protection.subject(args, kwargs)
        self.waiting = Waiting.of(self.request.headers)
        self.leave: Admission | None = None
        self.lease_id = ""

    @property
    def may_wait(self) -> bool:
        """Whether there is a message that can be published again."""
        return not (self.request.called_directly or self.request.is_eager)

    def begin(self) -> None:
        """Acquire the admission, or defer the task: if a limit is reached, its next free time is reserved.

        Raises:
            CircuitBreakerError: the breaker is open.
            RateLimitExceeded: a limit is reached, and the run may not wait.
        """
        try:
            self._acquire()
        except CircuitBreakerError as refusal:
            # The cached verdict may be a second old, and an operator may have reset the breaker since.
            breaker, waits = self.subject.breaker, self.may_wait and self.options.on_open == "defer"
            if (
                not waits
                or refusal.state == "slow_start"
                or breaker is None
                or breaker.peek(refresh=True)[0] != "closed"
            ):
                raise
            self._acquire()
        if self.waiting.deferrals:
            self._released()

    def _acquire(self) -> None:
        patience = _PATIENCE
        slot = self.waiting.decision()
        if self.may_wait and self.waiting.deferrals:
            self.protection.came_back(late_by(self.request))
        # The probe is read from the message's own headers: a header one level deeper is not checked.
        probe: object = getattr(self.request, PROBE, None) if self.may_wait else None
        lease_id = self.lease_id = probe if isinstance(probe, str) else self._lease_id()
        while self.leave is None:
            try:
                self.leave = self.protection.acquire(
                    self.subject, lease_id=lease_id, slot=slot, probe=lease_id is probe
                )
            except RateLimitExceeded as refusal:
                if not self.may_wait:
                    raise
                rate_limited.send(sender=self.task, request=self.request, reason=refusal)
                left = max(patience, self.waiting.left(self.options.max_wait, self.options.max_deferrals))
                left = max(0.0, min(left, until_it_expires(self.request)))  # no slot is taken that would not be used
                wait, slot = self._next_slot(refusal, slot, lease_id, left)
                if wait > patience:
                    self.put_off(refusal.waiting(wait), wait - self._early(refusal, slot), slot=slot)
                patience -= max(wait, 0.001)
                clock.sleep(wait)

    def _lease_id(self) -> str:
        request = self.request
        if not self.may_wait or threading.current_thread() is not threading.main_thread():
            return new_id()  # only its own process can end this run
        return lease_id_of(request.id, request.hostname, os.getpid())

    def _released(self) -> None:
        self._waits_no_more()
        task_resumed.send(
            sender=self.task, request=self.request, waited=self.waiting.waited, deferrals=self.waiting.deferrals
        )

    def _next_slot(
        self, refusal: RateLimitExceeded, slot: Decision | None, lease_id: str, max_wait: float
    ) -> tuple[float, Decision | None]:
        """Return how long to wait for the limit that denied, and the reservation for then."""
        limiter = self.protection.limiter
        if slot is not None and refusal.reservation_kept:
            return refusal.retry_after, slot  # it is not yet time for it
        if limiter is None or not limiter.limits[refusal.denied_by].reservable:
            if limiter is not None and limiter.limits[refusal.denied_by].allowance_returns:
                return refusal.retry_after + random.uniform(0, 0.1), slot
            # The end of the next run is unknown: ask again now and then.
            return min(refusal.retry_after, 5.0) * random.uniform(0.5, 1.0) + 0.1, slot
        if not self.protection.takes_slots:
            return self._try_again_in(refusal.retry_after, max_wait), slot
        slot = limiter.reserve(
            max_wait,
            self.subject.cost,
            key=self.subject.key,
            lease_id=lease_id + SLOT if slot is None else slot.lease_id,
            denied_by=refusal.denied_by,
        )
        return slot.retry_after, slot if slot.allowed else None

    def _try_again_in(self, retry_after: float, max_wait: float) -> float:
        """Return how long to wait without a reservation, because waiting tasks come back too late for theirs.

        A reservation that is missed is lost to all. If the workers are overloaded, and waiting tasks are delivered
        behind a backlog, soon all reservations are missed and no task runs, however few arrive. So a task that comes
        while the limit allows it runs. A task that is denied waits until the limit should allow one, or as long again
        as it has waited.
        """
        wait = random.uniform(0.5, 1.0) * max(retry_after, min(self.waiting.waited, _WITHOUT_SLOT))
        return min(wait, max_wait) if max_wait > _PATIENCE else retry_after

    def _early(self, refusal: RateLimitExceeded, slot: Decision | None) -> float:
        """Return by how many seconds to come back early: at most half of the time between two calls.

        So at most one run in two of the fleet waits in place.
        """
        limiter = self.protection.limiter
        if slot is None or limiter is None:
            return 0.0
        return min(_EARLY, limiter.limits[refusal.denied_by].spacing_us / 2 / SECOND)

    def backoff(self) -> float:
        """Return the seconds to wait before the next retry."""
        return self.options.backoff.delay(self.request.retries)

    def refused(self, refusal: CircuitBreakerError) -> Any:
        """Return the result of a run that the breaker rejects, or raise."""
        on_open = self.options.on_open
        if callable(on_open):
            return on_open(*self.args, **self.kwargs)
        if on_open == "skip":
            return self.options.skip_result
        if on_open == "fail" or not self.may_wait:
            raise refusal
        if on_open == "pause" and self.task.acks_late:
            raise Refused(repr(refusal)) from refusal
        self.put_off_until_probe(refusal)

    @staticmethod
    def of(task: Task[..., Any]) -> Run | None:
        """Return the run of ``task`` in this thread, or None."""
        request = task.request
        return next((run for run in reversed(runs.get()) if run.task is task and run.request is request), None)

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """Mark the run as running while its body runs, so that ``retry()`` finds it."""
        before = runs.set((*runs.get(), self))
        running_here.add(self)
        try:
            yield
        finally:
            running_here.discard(self)
            runs.reset(before)

    def renew(self) -> None:
        """Renew the lease of a concurrency limit. One round trip if there is such a limit, else none."""
        self.protection.renew(self.subject, self.lease_id)

    def end(self, error: BaseException | None) -> float:
        """Settle by what the body raised. Return the seconds until the next probe, or 0."""
        assert self.leave is not None
        if error is None:
            self.leave.cancel()
            return 0.0
        if isinstance(error, SoftTimeLimitExceeded):
            return self.leave.fail(error)  # whatever else the breaker expects
        return self.leave.record(error)

    def put_off_until_probe(self, refusal: CircuitBreakerError, at_least: float = 0.0, **republish: Any) -> NoReturn:
        """Defer until the next probe and for a reserved time after it, so that waiting tasks do not resume at once."""
        # An operator may end a long override early: ask again when the broker delivers the message again.
        until_probe = min(refusal.retry_after, longest_countdown(self.task.app))
        wait = max(at_least, self.protection.resume.turn(self.subject.name, floor=until_probe))
        if wait > longest_countdown(self.task.app):
            at_least = wait  # its turn is not yet when the broker brings it back
        self.put_off(refusal.waiting(wait), wait, at_least=at_least, **republish)

    def put_off(self, reason: CircuitBreakerError | RateLimitExceeded, wait: float, **republish: Any) -> NoReturn:
        """Defer the task, to run again in ``wait`` seconds.

        Raises:
            Retry, Reject, DeferralFailed: as :func:`~resilient_tasks.execution.deferral.put_off`.
            MaxWaitExceeded: it has waited long or often enough.
            DuplicateTask: another one waits already.
        """
        options, waiting = self.options, self.waiting
        if wait > waiting.left(options.max_wait, options.max_deferrals):
            self._waits_no_more()
            error = MaxWaitExceeded(
                f"gave up after waiting {waiting.waited:.0f} s in {waiting.deferrals} deferrals "
                f"(max_wait={options.max_wait:g} s, max_deferrals={options.max_deferrals}): {reason!r}"
            )
            if options.dead_letter is not None:
                bury(self.task, options.dead_letter, repr(error))
            raise error from reason
        if options.coalesce and not self._waits_alone(wait):
            raise DuplicateTask
        try:
            put_off(self.task, reason, wait, **republish)
        except (DeferralFailed, Ignore):
            self._waits_no_more()
            raise

    def _waits_alone(self, wait: float) -> bool:
        """Return whether no other call with these arguments waits."""
        # Somewhat longer than the wait: a task that is late still holds its place, one that is lost does not for long.
        seconds = max(0.001, min(wait + _MAY_BE_LATE, until_it_expires(self.request)))
        return self.protection.waits_alone(self.task.name, self.request.id, self.args, self.kwargs, seconds)

    def _waits_no_more(self) -> None:
        if self.options.coalesce:
            self.protection.waits_no_more(self.task.name, self.request.id, self.args, self.kwargs)


def without_probe(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the headers as they came in, without the one that only the worker itself may set."""
    return {name: value for name, value in headers.items() if name != PROBE}
