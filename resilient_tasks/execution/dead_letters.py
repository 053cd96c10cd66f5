"""Tasks that gave up waiting: kept in a queue of their own, from which they can be brought back."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from celery import Celery

from ..queues import messages_in, publish_again, queue_of
from .wait_header import HEADER

if TYPE_CHECKING:
    from celery import Task

logger = logging.getLogger("resilient_tasks")

_BURIED = "resilience_buried"
"""The header that says which queue the task came from, why it gave up, and when."""


def bury(task: Task[..., Any], queue: str, reason: str) -> None:
    """Publish the current message of ``task`` to ``queue``. If that fails it is logged: the task fails either way."""
    request = task.request
    headers = dict(request.as_execution_options()["headers"] or {})
    headers.pop(HEADER, None)
    headers[_BURIED] = {"queue": queue_of(task.app, request.delivery_info), "reason": reason, "at": time.time()}
    signature = task.signature_from_request(
        request, queue=queue, retries=request.retries, headers=headers, expires=None, countdown=None, eta=None
    )
    try:
        signature.apply_async()
    except Exception:
        logger.exception("%s[%r] gave up waiting and could not be kept in %r", task.name, request.id, queue)


def replay(app: Celery, queue: str, limit: int | None = None) -> Iterator[tuple[str, str]]:
    """Bring tasks back from the dead-letter queue ``queue``, each to the queue it came from, as new to waiting.

    Yields the name and id of each, once it is published and gone from here. What is published and not yet gone when
    the process is killed is there twice, never nowhere (on RabbitMQ, with ``confirm_publish``). Ends at
    ``limit``, or when all are back that were there at the beginning: some may give up again meanwhile.
    """
    with app.connection_for_write() as connection:
        channel: Any = connection.channel()  # which ends with its connection
        declared: Any = app.amqp.queues[queue](channel)
        declared.declare()
        producer: Any = app.amqp.Producer(channel, auto_declare=False)
        there = messages_in(connection, declared.name)
        for _ in range(there if limit is None else min(limit, there)):
            message = declared.get(no_ack=False)
            if message is None:
                return
            headers = dict(message.headers)
            buried = headers.pop(_BURIED, None)
            home = buried.get("queue") if isinstance(buried, dict) else None
            queues: Any = app.amqp.queues
            target = queues[home if isinstance(home, str) and home else app.conf.task_default_queue](channel)
            target.declare()
            exchange = target.exchange.name if target.exchange else ""
            publish_again(producer, message, exchange, target.routing_key or target.name, headers)
            message.ack()
            yield str(headers.get("task")), str(headers.get("id"))
