"""The request of a protected task, in a worker's main process.

If the process of a run is killed, only the main process learns of this, so the request settles the run. The request
also asks :mod:`resilient_tasks.worker.gate` whether the task has to wait because its queue is paused.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from celery.exceptions import TimeLimitExceeded
from celery.worker import request as celery_request
from celery.worker import state

from ratelimit_core.errors import ResilienceError
from ratelimit_core.limiter.concurrency import release_lease, release_lease_calls

from ..execution.run import PROBE, Refused, lease_id_of, without_probe
from ..execution.wait_header import Waiting
from ..queues import publish_again, queue_of
from .gates import Gate, gate_of

if TYPE_CHECKING:
    from ..protection import Protection, Subject

logger = logging.getLogger("resilient_tasks")

_PUNCTUAL = 0.25
"""The seconds by which a task may be late for its turn."""
_FEW = 10
"""The maximum number of times that a message is requeued in a quorum queue. RabbitMQ's own limit is 20."""


_Request: Any = celery_request.Request  # the type stubs lack most of its attributes


class ResilientRequest(_Request):  # type: ignore[misc] # see above
    """A request for a :class:`~resilient_tasks.ResilientTask`."""

    time_start: Any
    worker_pid: Any

    def __init__(self, message: Any, *, headers: Any = None, **options: Any) -> None:
        super().__init__(message, headers=without_probe(message.headers if headers is None else headers), **options)
        self.waiting = Waiting.of(self._request_dict)
        self.queue = queue_of(self._app, self._delivery_info)
        self.had_turn = False  # whether the task got its turn after the breaker closed
        self._settled = False
        self._gate: Gate | None = gate_of(self._app)
        if self._gate is not None:
            self._gate.received(self)

    @property
    def protection(self) -> Protection | None:
        """The protection of the task, or of the queue that it came from."""
        task = self._task
        if task.resilience is not None or task.resilience_of_queue is None or self.queue is None:
            protection: Protection | None = task.resilience
            return protection
        protection = task.resilience_of_queue(self.queue)
        return protection

    @property
    def subject(self) -> Subject | None:
        """The breaker and the key of the call. None if the arguments do not fit the task."""
        protection = self.protection
        try:
            return None if protection is None else protection.subject(self._args, self._kwargs)
        except Exception:  # a user's function may raise anything, and must not end the main process
            return None

    def revoked(self) -> bool:
        """Return whether the request must not go to the pool, because it is revoked or the gate keeps it here.

        This is the last method that Celery calls before the request goes to the pool.
        """
        if super().revoked():
            return True
        return self in state.reserved_requests and self._gate is not None and not self._gate.admits(self)

    @property
    def waits_here(self) -> float:
        """The seconds that the request is still held here until its ``eta``; 0 or less if it is due."""
        return 0.0 if self.eta is None else float(self.eta.timestamp() - time.time())

    @property
    def is_late(self) -> bool:
        """Whether the task has missed its turn after an outage, for example because all workers were busy."""
        return bool(self.waiting.deferrals and self.waiting.slot is None and self.waits_here < -_PUNCTUAL)

    def hand_over(self, probe: str) -> None:
        """Let the run use the probe's lease with the id ``probe``, which this worker holds."""
        self._request_dict[PROBE] = probe

    def give_back(self) -> None:
        """Requeue the message. The broker delivers the message to a worker that still consumes the queue."""
        state.task_ready(self)
        deliveries = self._message.headers.get("x-delivery-count")
        if not isinstance(deliveries, int) or deliveries < _FEW:
            self.reject(requeue=True)
            return
        # A quorum queue drops a message that was requeued too often, so the message is published again.
        with self._app.producer_or_acquire() as producer:
            delivery = self._message.delivery_info
            publish_again(producer, self._message, delivery["exchange"], delivery["routing_key"])
        self.acknowledge()

    def waits(self, why: str) -> None:
        """Show the task in Flower as waiting, with the reason ``why``."""
        self.send_event("task-retried", exception=why, traceback="")

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """Record a failure of the dependency if the run has reached its hard time limit, which ended its process."""
        super().on_timeout(soft, timeout)
        if not soft and not state.should_terminate:
            self.settle(TimeLimitExceeded(timeout), timeout)

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """Handle a failed run that the pool reports. Settle the run if it could not settle itself."""
        error = exc_info.exception
        error = getattr(error, "exc", error) if type(error).__name__ == "ExceptionWithTraceback" else error
        if isinstance(error, Refused) and self._gate is not None:
            state.active_requests.discard(self)  # it no longer runs, so `terminate` must not end its process
            self.time_start = self.worker_pid = None
            self._gate.refused(self, error)
            return None
        if not return_ok:  # the run's process was lost, so the run has not settled itself
            timed_out = error if isinstance(error, TimeLimitExceeded) else None
            self.settle(timed_out, time.time() - (self.time_start or time.time()))
        result = super().on_failure(exc_info, send_failed_event, return_ok)
        if self._gate is not None:
            self._gate.finished(self)
        return result

    def renew(self) -> None:
        """Renew the lease of the run. Costs one round trip if there is a concurrency limit, otherwise none."""
        protection, subject = self.protection, self.subject
        if protection is not None and subject is not None:
            probe = self._request_dict.get(PROBE)
            ours = lease_id_of(self.id, self._hostname, self.worker_pid)
            protection.renew(subject, probe if isinstance(probe, str) else ours)

    def settle(self, error: BaseException | None, ran: float) -> None:
        """Settle a run that can't settle itself, and release its leases.

        Costs one round trip for each lease, of which there are at most two, and one for the history if the breaker's
        state changes.

        ``ran``: for how many seconds the run lasted.
        """
        protection, subject = self.protection, self.subject
        if protection is None or subject is None or not self.worker_pid or self._settled:
            return
        self._settled = True
        try:
            self._settle(protection, subject, error, ran)
        except ResilienceError:
            logger.warning(
                "%s[%r] could not be settled, so its leases stay until they end", self.name, self.id, exc_info=True
            )

    def _settle(self, protection: Protection, subject: Subject, error: BaseException | None, ran: float) -> None:
        lease_ids = [lease_id_of(self.id, self._hostname, self.worker_pid)]
        if isinstance(probe := self._request_dict.get(PROBE), str):
            lease_ids.append(probe)
        for lease_id in lease_ids:
            limiter = protection.limiter
            releases = release_lease_calls(limiter, lease_id, key=subject.key) if limiter is not None else []
            if subject.breaker is not None:
                subject.breaker.report_external(error, started_ago=ran, lease_id=lease_id, extra_calls=releases)
                error = None  # report it once
            elif limiter is not None:
                release_lease(limiter, lease_id, key=subject.key)
