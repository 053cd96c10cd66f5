"""Place orders and read them, for the views of the site."""

import random
from collections.abc import Iterable, Sequence
from typing import Any

from django.db.models import Count
from django.utils import timezone
from kombu.exceptions import OperationalError

from example_worker.enqueue import read_orders
from example_worker.models import Order
from example_worker.tasks import charge

NUMBERS = (1, 50)
"""The numbers of orders that may be placed at once."""

BROKER_AWAY = "not queued: the broker is unavailable"


def place(number: int) -> Sequence[Order]:
    """Place ``number`` orders. All rows are written before the first task, so that each task finds its row."""
    samples = random.choices(read_orders(), k=number)
    orders = Order.objects.bulk_create(Order(customer=each.customer, amount=each.amount) for each in samples)
    for index, order in enumerate(orders):
        try:
            charge.apply_async((str(order.pk), str(order.amount)), task_id=str(order.pk))
        except OperationalError:
            left = [each.pk for each in orders[index:]]
            rows = Order.objects.filter(pk__in=left, state=Order.State.PLACED)
            rows.update(state=Order.State.FAILED, why=BROKER_AWAY, changed_at=timezone.now())
            break
    return orders


async def counted() -> dict[str, int]:
    """Return the number of orders in each state."""
    totals = Order.objects.order_by().values_list("state").annotate(Count("pk"))
    numbers = {state: number async for state, number in totals}
    return {state: numbers.get(state, 0) for state in Order.State.values}


async def shown(number: int) -> list[dict[str, Any]]:
    """Return the latest orders.

    ``wait`` is the seconds until the next try, or None. ``age`` is the order's age in seconds at its last change.
    """
    return described([order async for order in Order.objects.all()[:number]])


def described(orders: Iterable[Order]) -> list[dict[str, Any]]:
    now = timezone.now()
    return [
        {
            "id": str(order.pk),
            "customer": order.customer,
            "amount": str(order.amount),
            "state": order.state,
            "why": order.why,
            "wait": None if order.until is None else max(0.0, round((order.until - now).total_seconds(), 1)),
            "age": round((order.changed_at - order.placed_at).total_seconds(), 1),
        }
        for order in orders
    ]
