"""What becomes of each order, written to the site's database by the workers, from Celery's own signals.

A task that waits for a breaker or a limit is a retry to Celery: the signal's reason says what for, and how long.
"""

from datetime import datetime, timedelta
from typing import Any

from celery.exceptions import Retry
from celery.signals import task_failure, task_retry, task_success
from django.utils import timezone

from example_worker.models import Order
from example_worker.tasks import charge
from ratelimit_core import CircuitBreakerError, RateLimitExceeded

OPEN = (Order.State.PLACED, Order.State.WAITING)


@task_retry.connect(sender=charge)
def waits(request: Any, reason: Retry, **_: object) -> None:
    """Put off or retried. The next run may be over before this is written, so it changes no order that is done."""
    when: Any = reason.when
    until = when if isinstance(when, datetime) else timezone.now() + timedelta(seconds=when or 0)
    _note(request.id, Order.State.WAITING, explain(reason.exc), until)


@task_success.connect(sender=charge)
def succeeds(sender: Any, **_: object) -> None:
    _note(sender.request.id, Order.State.CHARGED)


@task_failure.connect(sender=charge)
def fails(task_id: str, exception: Exception, **_: object) -> None:
    _note(task_id, Order.State.FAILED, repr(exception))


def explain(error: object) -> str:
    """Why an order waits, in a few words."""
    match error:
        case CircuitBreakerError():
            return f"breaker {error.breaker_name} is {error.state.replace('_', '-')}"
        case RateLimitExceeded():
            return "the limit is reached"
        case _:
            return type(error).__name__


def _note(task_id: str, state: Order.State, why: str = "", until: datetime | None = None) -> None:
    """For orders of the site; the tasks that ``enqueue.py`` sends have none."""
    orders = Order.objects.filter(pk=task_id, state__in=OPEN)
    orders.update(state=state, why=why[:200], until=until, changed_at=timezone.now())
