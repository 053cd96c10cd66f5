"""Workers write the progress of each order to the database of the site, from Celery's signals.

For Celery, a task that waits for a breaker or a limit is a retry. The signal's ``reason`` has the cause and the time.
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
    """Record that an order is deferred or retried. The next run may already be over; a final state is kept."""
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
    """Return in a few words why an order waits."""
    match error:
        case CircuitBreakerError():
            return f"breaker {error.breaker_name} is {error.state.replace('_', '-')}"
        case RateLimitExceeded():
            return "the limit is reached"
        case _:
            return type(error).__name__


def _note(task_id: str, state: Order.State, why: str = "", until: datetime | None = None) -> None:
    """Update the order of a task. Tasks of ``enqueue.py`` have no order in the database."""
    orders = Order.objects.filter(pk=task_id, state__in=OPEN)
    orders.update(state=state, why=why[:200], until=until, changed_at=timezone.now())
