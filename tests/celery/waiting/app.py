"""An app for real workers: each task is moved once to a waiting queue, fetched from there, and then runs.

``celery -A tests.celery.waiting.app worker``
"""

from __future__ import annotations

import os
import time
from typing import Any

import redis
from celery import Celery, Task, bootsteps
from celery.worker import request
from celery.worker import strategy as celery_strategy
from kombu import Queue

from resilient_tasks.waiting.broker import Origin, broker_of, original

KIND, NAME = os.environ["WAITING_KIND"], os.environ["WAITING_QUEUE"]
arguments = {} if KIND == "valkey" else {"x-queue-type": "quorum" if KIND == "quorum" else "classic"}
app = Celery("app", broker=os.environ["WAITING_BROKER"])
app.conf.update(
    task_queues=[Queue(NAME, queue_arguments=arguments)],
    task_default_queue=NAME,
    broker_connection_retry_on_startup=True,
    worker_prefetch_multiplier=4,
)
world = redis.Redis.from_url(os.environ["WAITING_WORLD"], decode_responses=True)
_Request: Any = request.Request  # the type stubs lack most of its attributes


class SeeingRequest(_Request):
    """A request that shows the delivery by the source queue."""

    def __init__(self, message: Any, *, headers: Any = None, **options: Any) -> None:
        seen = original(message, headers)
        super().__init__(message, headers=seen.headers, **options)
        self._delivery_info.update({name: seen.delivery_info[name] for name in ("exchange", "routing_key")})


def move_first(task: Any, app: Any, consumer: Any, **options: Any) -> Any:
    """Move what did not wait; handle the rest as Celery does."""
    default: Any = celery_strategy.default
    handle = default(task, app, consumer, **options)

    def received(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any) -> Any:
        if original(message).origin is not None:
            return handle(message, body, ack, reject, callbacks)
        to = consumer.waiting.declare(NAME, 0)
        origin = Origin.of(message, key="key", queue=NAME, now=time.time())
        return consumer.waiting.move(message, to, origin, lambda moved: fetch(consumer, to))

    def fetch(consumer: Any, name: str) -> None:
        consumer.waiting.fetch(name, 1, consumer.task_consumer.on_message)

    return received


class Waits(bootsteps.StartStopStep):
    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, consumer: Any) -> None:
        consumer.waiting = broker_of(consumer)

    def stop(self, consumer: Any) -> None:
        consumer.waiting.close()


app.steps["consumer"].add(Waits)


class Waiting(Task):  # type: ignore[type-arg]
    Request = "tests.celery.waiting.app:SeeingRequest"
    Strategy = "tests.celery.waiting.app:move_first"


@app.task(base=Waiting, bind=True, acks_late=True)
def record(self: Any, n: int) -> None:
    info, headers = self.request.delivery_info, self.request.headers or {}
    assert "resilience_waiting" not in headers
    assert not self.request.get("resilience_waiting")
    world.rpush("runs", f"{n} {info['exchange']} {info['routing_key']}")
