"""Warnings at the start of a worker about configurations that work, but not as you may expect."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from celery import Celery

from ..protection import Protection
from ..queues import holding_time, longest_countdown, usual_queue
from ..table import table_of
from ..task import ResilientTask


def advise(app: Celery) -> Iterator[str]:
    """Yield the warnings about the app's tasks and queues. Each says what to write instead."""
    table = table_of(app)
    if table is not None:
        for key in table.idle(app.tasks, app.amqp.queues):
            yield f"resilience[{key!r}] matches no task or queue of this worker: check its spelling"
    pausing: dict[str, set[str]] = defaultdict(set)
    others: dict[str, list[str]] = defaultdict(list)
    for name, task in sorted(app.tasks.items()):
        if name.startswith("celery."):
            continue
        protection: Protection | None = getattr(task, "resilience", None)
        queue = usual_queue(app, task)
        if protection is not None and protection.options.on_open == "pause":
            pausing[queue].add(protection.breaker.name if protection.breaker is not None else name)
        elif not (isinstance(task, ResilientTask) and task.resilience_of_queue is not None):
            others[queue].append(name)
        if protection is not None:
            yield from _of_task(app, task, protection)
    for queue, breakers in pausing.items():
        if others[queue]:
            yield (
                f"queue {queue!r} is paused while {', '.join(sorted(breakers))} is open, which also stops "
                f"{_some(others[queue])}: give tasks with on_open='pause' their own queue, or write on_open='defer'"
            )


def _of_task(app: Celery, task: Any, protection: Protection) -> Iterator[str]:
    longest, holds = longest_countdown(app), holding_time(app)
    backoff = protection.options.backoff.max if protection.options.retry_for else 0
    if backoff > longest:
        yield (
            f"{task.name}: the broker holds a message for {holds:g} s, so retries with backoff.max={backoff:g} wait in "
            f"parts of {longest:g} s: with Redis or SQS, set broker_transport_options['visibility_timeout'] to "
            f"{2 * backoff:g} or more"
        )
    if task.acks_late and holds < (task.time_limit or 0):
        yield (
            f"{task.name}: acks_late with time_limit={task.time_limit:g}, but the broker delivers a message again "
            f"after {holds:g} s, even if the task still runs: set the broker's visibility_timeout (in RabbitMQ, "
            "consumer_timeout) above the time limit"
        )
    if protection.options.on_open == "pause" and not task.acks_late:
        yield (
            f"{task.name}: on_open='pause' without acks_late. A prefetched call is already acknowledged when the "
            "breaker rejects it, so it is published again for later: write acks_late=True if the task may run twice"
        )


def _some(names: list[str], shown: int = 3) -> str:
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more} more" if more > 0 else "")
