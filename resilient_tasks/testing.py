"""For tests of tasks: what was put off and what was refused, without a broker or a worker.

:mod:`ratelimit_core.testing` has what is not about tasks. Eagerly and where a task is called directly nothing can wait:
a refusal is an error there. :func:`assert_deferred` runs a task as a worker would.
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
    """A task was put off for ``countdown`` seconds, because of ``reason``. ``task`` is its name."""

    task: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    reason: ResilienceError
    countdown: float


@dataclass(slots=True)
class Recorded:
    """What :func:`recorded` has seen so far: what was put off, and the refusals that tasks ended by."""

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
    """Record what becomes of protected tasks in this process: in a worker of the test's own, eagerly, or both.

    With ``task_eager_propagates`` the caller gets a refusal as an exception, and Celery tells nobody of it.
    """
    seen = Recorded()
    uid = str(uuid4())  # before Celery 5.7, the methods of two objects are the same receiver
    task_deferred.connect(seen._deferred, weak=False, dispatch_uid=uid)
    task_failure.connect(seen._failed, weak=False, dispatch_uid=uid)
    try:
        yield seen
    finally:
        task_deferred.disconnect(dispatch_uid=uid)
        task_failure.disconnect(dispatch_uid=uid)


def assert_deferred(task: Any, /, *args: Any, **kwargs: Any) -> Deferral:
    """Run ``task`` with these arguments as a worker would, and see that it is put off; nothing is published.

    Signals of Celery's, hooks like ``on_retry`` and the result backend see nothing of it: the task is called, with the
    request of a first delivery.

    Raises:
        AssertionError: it was not put off; the message says what it came to.
    """
    if not isinstance(task, ResilientTask):
        raise TypeError(f"assert_deferred({task!r}): give a protected task, and its arguments after it")
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
            raise AssertionError(f"{task.name} was retried, not put off: {retry}") from retry
        except (Exception, Ignore) as error:
            raise AssertionError(f"{task.name} was not put off: {error!r}") from error
        finally:
            task.pop_request()
    raise AssertionError(f"{task.name} was not put off: it returned {result!r}")
