"""Helpers for tests of tasks: record deferrals and rejections without a broker or a worker.

:mod:`ratelimit_core.testing` has the helpers for breakers and limits. A task that runs eagerly or is called directly
can't wait, so it raises an error. :func:`assert_deferred` runs a task as a worker does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch
from uuid import uuid4

from celery.exceptions import Ignore, Retry
from celery.signals import task_failure

from ratelimit_core.errors import CircuitBreakerError, RateLimitExceeded, ResilienceError

from .execution import deferral
from .queues import usual_queue
from .signals import task_deferred
from .task import ResilientTask

__all__ = ["Deferral", "Recorded", "assert_deferred", "recorded"]


@dataclass(frozen=True, slots=True)
class Deferral:
    """A deferral of the task named ``task`` for ``countdown`` seconds, because of ``reason``."""

    task: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    reason: ResilienceError
    countdown: float


@dataclass(slots=True)
class Recorded:
    """The record of :func:`recorded`: deferrals, and the errors of breakers and limits with which tasks failed."""

    deferrals: list[Deferral] = field(default_factory=list)
    refusals: list[CircuitBreakerError | RateLimitExceeded] = field(default_factory=list)

    def _deferred(self, sender: Any, request: Any, reason: ResilienceError, countdown: float, **_: Any) -> None:
        args, kwargs = tuple(request.args or ()), dict(request.kwargs or {})
        self.deferrals.append(Deferral(sender.name, args, kwargs, reason, countdown))

    def _failed(self, exception: BaseException, **_: Any) -> None:
        if isinstance(exception, CircuitBreakerError | RateLimitExceeded):
            self.refusals.append(exception)


@contextmanager
def recorded() -> Iterator[Recorded]:
    """Record deferrals, and failures with errors of breakers and limits, of tasks that run in this process.

    The tasks may run eagerly or in a worker of the test. With ``task_eager_propagates``, failures are raised and not
    recorded, because Celery sends no signal for them.
    """
    seen = Recorded()
    uid = str(uuid4())  # before Celery 5.7, the methods of two objects count as one receiver
    task_deferred.connect(seen._deferred, weak=False, dispatch_uid=uid)
    task_failure.connect(seen._failed, weak=False, dispatch_uid=uid)
    try:
        yield seen
    finally:
        task_deferred.disconnect(dispatch_uid=uid)
        task_failure.disconnect(dispatch_uid=uid)


def assert_deferred(task: Any, /, *args: Any, **kwargs: Any) -> Deferral:
    """Run ``task`` with these arguments as a worker does, and check that it is deferred. Nothing is published.

    The task is called with the request of a first delivery. Celery's signals, hooks such as ``on_retry``, and the
    result backend are not involved.

    Raises:
        AssertionError: the task was not deferred. The message says what happened instead.
        TypeError: ``task`` is not a protected task.
    """
    if not isinstance(task, ResilientTask):
        raise TypeError(f"assert_deferred({task!r}): pass a protected task first, and its arguments after it")
    request = {
        "id": str(uuid4()),
        "args": args,
        "kwargs": kwargs,
        "retries": 0,
        "called_directly": False,
        "is_eager": False,
        "hostname": "test",
        "headers": {},
        "delivery_info": {"exchange": "", "routing_key": usual_queue(task.app, task)},
    }
    task.push_request(**request)
    with recorded() as seen, patch.object(deferral, "publish", lambda message: None):
        try:
            result = task(*args, **kwargs)
        except Retry as retry:
            if seen.deferrals:
                return seen.deferrals[-1]
            raise AssertionError(f"{task.name} was retried, not deferred: {retry}") from retry
        except (Exception, Ignore) as error:
            raise AssertionError(f"{task.name} was not deferred, but raised {error!r}") from error
        finally:
            task.pop_request()
    raise AssertionError(f"{task.name} was not deferred, but returned {result!r}")
