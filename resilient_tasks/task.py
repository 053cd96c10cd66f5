"""The base class of protected tasks. It asks the breaker and the limits before the body runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

from celery import Celery, Task
from celery import _state as celery_state
from celery import states as celery_states
from celery.exceptions import Ignore, Reject, Retry, TaskPredicate
from celery.result import EagerResult
from celery.utils import uuid
from celery.utils.time import maybe_make_aware

from ratelimit_core._util.clock import microseconds
from ratelimit_core.circuit_breaker.breaker import cache_of
from ratelimit_core.errors import CircuitBreakerError
from ratelimit_core.retry_after import parse_retry_after

from .execution.deferral import hold_back, in_parts, not_published
from .execution.run import DuplicateTask, Run
from .execution.wait_header import HEADER
from .protection import Protection
from .queues import queue_of
from .settings import check_settings
from .table import route


class ResilientTask(Task):  # type: ignore[type-arg] # Celery's own class takes no parameters at run time
    """A task with a :class:`Protection`. Without a protection it is an ordinary task.

    In a worker, a run that a limit denies is deferred. A run that the breaker rejects is deferred too, unless
    ``on_open`` says otherwise. A task that is called directly or eagerly can't wait. In place of a deferral, it raises
    :class:`~ratelimit_core.CircuitBreakerError` or :class:`~ratelimit_core.RateLimitExceeded`.
    """

    abstract = True
    Request = "resilient_tasks.worker.request:ResilientRequest"
    resilience: Protection | None = None
    resilience_of_queue: Callable[[str], Protection | None] | None = None

    @classmethod
    def on_bound(cls, app: Celery) -> None:
        """Find the protection of the task in the routing table, if no decorator protects the task."""
        super().on_bound(app)
        route(app, cls)
        if cls.resilience is not None:
            cls.resilience.run_for(cls.time_limit)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the body if the breaker and the limits allow it now."""
        request = self.request
        protection = self._protection(request)
        if protection is None or Run.of(self) is not None:
            return self._body(request, args, kwargs)
        run = None
        try:
            if request.headers and HEADER in request.headers:
                hold_back(self)
            run = Run(self, protection, args, kwargs)
            return self._guarded(run)
        except DuplicateTask:
            return protection.options.skip_result
        except TaskPredicate as leaving:
            if run is not None and run.leave is not None:
                raise
            # Drop the traceback: each frame costs kilobytes in the pipe to the worker's main process. If the pipe is
            # full and the main process stops reading, this process can't end.
            raise leaving.with_traceback(None) from leaving.__cause__

    def _guarded(self, run: Run) -> Any:
        try:
            run.begin()
        except CircuitBreakerError as refusal:
            return run.refused(refusal)
        request, leave, options = run.request, run.leave, run.options
        assert leave is not None
        try:
            with run.under_way():
                result = leave.run(self._body, request, run.args, run.kwargs)
        except Retry as retry:  # from `retry()` of this or of another task, or raised by the body
            run.end(retry.exc)
            raise
        except Reject:
            leave.cancel()
            raise
        except Ignore:  # the call succeeded, as with `replace()`
            leave.record(None)
            raise
        except Exception as error:
            if isinstance(error, tuple(options.retry_for)) and run.may_wait and not leave.settled:
                with run.under_way():
                    raise self.retry(exc=error, countdown=run.backoff()) from error
            run.end(error)
            raise
        except BaseException as error:  # the process ends, which is no outcome of the call
            leave.record(error)
            raise
        leave.record_result(result)
        return result

    def _protection(self, request: Any) -> Protection | None:
        """Return the protection of this run: the task's own, or that of the queue that the message came from."""
        if self.resilience is not None or self.resilience_of_queue is None or request.called_directly:
            return self.resilience
        queue = queue_of(self.app, request.delivery_info)
        return None if queue is None else self.resilience_of_queue(queue)

    def _body(self, request: Any, args: Any, kwargs: Any) -> Any:
        inherited: Any = super().__call__
        if request.called_directly or inherited.__func__ is not Task.__call__:
            return inherited(*args, **kwargs)
        return self.run(*args, **kwargs)  # Celery's own `__call__` would hide the worker's request

    def apply_async(
        self, args: Any = None, kwargs: Any = None, task_id: str | None = None, *more: Any, **options: Any
    ) -> Any:
        """Publish the task as Celery does. While the breaker is open, do what ``on_publish_while_open`` says instead.

        This option applies only to callers outside of tasks, so chains and retries are still published. The check costs
        at most one round trip: none with ``"allow"``, or while the cached verdict may be used.

        Raises:
            CircuitBreakerError: the breaker is open, and ``on_publish_while_open`` is ``"raise"``.
            Exception: Celery can't publish the task, or a function in ``on_publish_while_open`` raises.
        """
        protection = self.resilience
        if (
            protection is not None
            and not options.get("retries")
            and HEADER not in (options.get("headers") or ())
            and celery_state.get_current_worker_task() is None
            and not self.app.conf.task_always_eager
        ):
            refusal = protection.refusal_to_publish(args or (), kwargs or {})
            if refusal is not None:
                instead = protection.options.on_publish_while_open
                if not callable(instead):
                    raise refusal
                value = instead(*(args or ()), **(kwargs or {}))
                return EagerResult(task_id or uuid(), value, celery_states.SUCCESS, name=self.name)
        return super().apply_async(args, kwargs, task_id, *more, **options)

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
        """Record the error, and retry as Celery does. While the breaker is open, defer the task instead.

        If the breaker is open after this error, the task is deferred until the next probe, and ``retries`` does not
        grow. Otherwise the task is retried. Without ``eta``, it then waits for at least the ``Retry-After`` of the
        error, and waits in parts if the broker can't hold a message for that long.
        """
        run = Run.of(self)
        error = exc if exc is not None else sys.exc_info()[1]
        if run is not None:
            until_probe = run.end(error)
            asked = (parse_retry_after(error) if error is not None else None) or 0.0
            breaker = run.subject.breaker
            if until_probe > 0 and run.may_wait and breaker is not None:
                refusal = cache_of(breaker).error(microseconds(until_probe))
                refusal.__cause__ = error
                at_least = max(asked, countdown or 0.0)
                if eta is not None:
                    at_least = max(at_least, maybe_make_aware(eta).timestamp() - time.time())
                try:
                    run.put_off_until_probe(refusal, at_least, args=args, kwargs=kwargs, options=options)
                except Retry as retry:
                    if throw:
                        raise
                    return retry
            if asked and eta is None:
                countdown = max(asked, self.default_retry_delay if countdown is None else countdown)
            if run.may_wait and eta is None:
                wanted = self.default_retry_delay if countdown is None else countdown
                countdown, options = in_parts(self, wanted, options)
        try:
            return super().retry(args, kwargs, exc, throw, eta, countdown, max_retries, **options)
        except Reject as rejected:  # Celery drops the message if the retry can't be published
            raise not_published(self, rejected.__cause__ or rejected, error) from error


def _prepare(app: Celery) -> None:
    """Check the settings of ``app``, and add the gate to its workers."""
    check_settings(app)
    app.steps["consumer"].add("resilient_tasks.worker.gate:Gate")


_state: Any = celery_state
_state.connect_on_app_finalize(_prepare)
for _app in _state._get_active_apps():
    if _app.finalized:
        _prepare(_app)
