"""A Django project's tasks, sent within transactions: ``python -m tests.celery.shop`` prints what was published."""

from __future__ import annotations

import os

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.django.settings"

from typing import Any

import django
from celery import Celery
from django.db import transaction

from resilient_tasks import ResilientTask, breaker_task, install

app = Celery("shop", broker="memory://", set_as_current=True)
app.conf.resilience_backend = "memory://"
app.conf.resilience = {"shop.*": {"breaker": "shop"}}
install(app)


@app.task(name="shop.charge", shared=False)
def charge(order: int) -> None: ...


@breaker_task(name="other.refund", breaker="refunds")
def refund(order: int) -> None: ...


def published() -> int:
    with app.connection_for_read() as connection:
        queue: Any = connection.SimpleQueue("celery")
        return int(queue.qsize())


def main() -> None:
    django.setup()
    assert isinstance(app.tasks[charge.name], ResilientTask)
    for task in (charge, refund):
        shop_task: Any = app.tasks[task.name]
        before = published()
        with transaction.atomic():
            shop_task.delay_on_commit(1)
            print(task.name, "within", published() - before)
        print(task.name, "committed", published() - before)
        try:
            with transaction.atomic():
                shop_task.delay_on_commit(2)
                raise LookupError
        except LookupError:
            print(task.name, "rolled back", published() - before)


if __name__ == "__main__":
    main()
