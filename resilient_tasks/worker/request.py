"""What a worker's own process sees of a protected task: it settles what the pool's process can't any more.

A hard time limit, a kill, and a task that was terminated are known only here. And it is here that a task of a
queue which is left alone is held, see :mod:`resilient_tasks.worker.gate`.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from celery.exceptions import TimeLimitExceeded
from celery.worker import request as celery_request
from celery.worker import state

from ratelimit_core.errors import ResilienceError

from ..execution.run import PROBE, Refused, ticket_of, without_probe
from ..execution.wait_header import Waiting
from ..queues import publish_again, queue_of
from .gates import Gate, gate_of

if TYPE_CHECKING:
    from ..protection import Protection, Subject

logger = logging.getLogger("resilient_tasks")

_PUNCTUAL = 0.25
"""Seconds by which a task may be late for its turn."""
_FEW = 10
"""So often a message may go back to a quorum queue; RabbitMQ's own limit is 20."""


_Request: Any = celery_request.Request  # the stubs know nothing of what it is made of


class ResilientRequest(_Request):  # type: ignore[misc] # see above
    """A request for a :class:`~resilient_tasks.ResilientTask`."""

    time_start: Any
    worker_pid: Any

    def __init__(self, message: Any, *, headers: Any = None, **options: Any) -> None:
        super().__init__(message, headers=without_probe(message.headers if headers is None else headers), **options)
        self.waiting = Waiting.of(self._request_dict)
        self.queue = queue_of(self._app, self._delivery_info)
        self.had_turn = False  # it waited for its turn after the breaker closed
        self._settled = False
        self._gate: Gate | None = gate_of(self._app)
        if self._gate is not None:
            self._gate.received(self)

    @property
    def protection(self) -> Protection | None:
        """What stands before the task, or before the queue that it came from."""
        task = self._task
        if task.resilience is not None or task.resilience_of_queue is None or self.queue is None:
            protection: Protection | None = task.resilience
            return protection
        protection = task.resilience_of_queue(self.queue)
        return protection

    @property
    def subject(self) -> Subject | None:
        """What the call is about; None if its arguments don't say: then it fails where it runs."""
        protection = self.protection
        try:
            return None if protection is None else protection.subject(self._args, self._kwargs)
        except Exception:  # a user's own functions are asked here, in the process that no task may end
            return None

    def revoked(self) -> bool:
        """Whether the pool is not to have it: revoked, or held here by the gate. Asked last before it goes there."""
        if super().revoked():
            return True
        return self in state.reserved_requests and self._gate is not None and not self._gate.admits(self)

    @property
    def waits_here(self) -> float:
        """How many seconds it will be held until its time has come; 0 or less if that is now."""
        return 0.0 if self.eta is None else float(self.eta.timestamp() - time.time())

    @property
    def is_late(self) -> bool:
        """Whether it has missed its turn after an opening, as when all workers were busy or away."""
        return bool(self.waiting.deferrals and self.waiting.slot is None and self.waits_here < -_PUNCTUAL)

    def hand_over(self, probe: str) -> None:
        """Have the run use the probe's place that is held under the name ``probe``."""
        self._request_dict[PROBE] = probe

    def give_back(self) -> None:
        """Have the broker deliver it again, to whoever consumes its queue then."""
        state.task_ready(self)
        deliveries = self._message.headers.get("x-delivery-count")
        if not isinstance(deliveries, int) or deliveries < _FEW:
            self.reject(requeue=True)
            return
        # A quorum queue throws a message away that came back too often: so it is published anew.
        with self._app.producer_or_acquire() as producer:
            delivery = self._message.delivery_info
            publish_again(producer, self._message, delivery["exchange"], delivery["routing_key"])
        self.acknowledge()

    def waits(self, why: str) -> None:
        """Show it in Flower as one that waits, and for what."""
        self.send_event("task-retried", exception=why, traceback="")

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """A hard time limit is a failure of what the task depends on; its process is gone."""
        super().on_timeout(soft, timeout)
        if not soft and not state.should_terminate:
            self.settle(TimeLimitExceeded(timeout), timeout)

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """What the pool reports, of its own processes too: of a run that was lost nothing is known."""
        error = exc_info.exception
        error = getattr(error, "exc", error) if type(error).__name__ == "ExceptionWithTraceback" else error
        if isinstance(error, Refused) and self._gate is not None:
            state.active_requests.discard(self)  # it runs no more: its process may not be ended in its name
            self.time_start = self.worker_pid = None
            self._gate.refused(self, error)
            return None
        if not return_ok:  # the run itself said nothing, and so settled nothing
            timed_out = error if isinstance(error, TimeLimitExceeded) else None
            self.settle(timed_out, time.time() - (self.time_start or time.time()))
        result = super().on_failure(exc_info, send_failed_event, return_ok)
        if self._gate is not None:
            self._gate.finished(self)
        return result

    def renew(self) -> None:
        """Have a run that goes on hold its place to run longer. One round trip, where there is a limit on those."""
        protection, subject = self.protection, self.subject
        if protection is not None and subject is not None:
            probe = self._request_dict.get(PROBE)
            ours = ticket_of(self.id, self._hostname, self.worker_pid)
            protection.renew(subject, probe if isinstance(probe, str) else ours)

    def settle(self, error: BaseException | None, ran: float) -> None:
        """Say for a run what it can't say itself, and give back the places that it held. Two round trips at most."""
        protection, subject = self.protection, self.subject
        if protection is None or subject is None or not self.worker_pid or self._settled:
            return
        self._settled = True
        try:
            self._settle(protection, subject, error, ran)
        except ResilienceError:
            logger.warning("%s[%r] could not be settled", self.name, self.id, exc_info=True)

    def _settle(self, protection: Protection, subject: Subject, error: BaseException | None, ran: float) -> None:
        tickets = [ticket_of(self.id, self._hostname, self.worker_pid)]
        if isinstance(probe := self._request_dict.get(PROBE), str):
            tickets.append(probe)
        for ticket in tickets:
            places = protection.limiter.places(ticket, key=subject.key) if protection.limiter is not None else []
            if subject.breaker is not None:
                subject.breaker.report_external(error, started_ago=ran, ticket=ticket, extra_calls=places)
                error = None  # said once
            elif protection.limiter is not None and places:
                protection.limiter.let_go(ticket, key=subject.key)
