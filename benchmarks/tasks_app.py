"""The app of the worker of ``benchmarks.cases.tasks``: ``celery -A benchmarks.tasks_app worker``."""

from __future__ import annotations

import os
from typing import Any

import redis
from celery import Celery

from example_worker.processes import die_with_parent
from resilient_tasks import breaker_task, rate_limited_task

STORE = os.environ.get("BENCH_STORE", "redis://127.0.0.1:6379")

app = Celery("bench", broker=f"{STORE}/0")
app.conf.update(
    resilience_backend=f"{STORE}/1",
    broker_connection_retry_on_startup=True,
    task_ignore_result=True,
)
world: Any = redis.Redis.from_url(f"{STORE}/2")

RATES = "50000/s;100000/m"


@app.task
def plain() -> None:
    pass


@breaker_task(breaker="bench")
def guarded() -> None:
    pass


@rate_limited_task(rate=RATES)
def limited() -> None:
    pass


@breaker_task(breaker="bench-limited", rate=RATES, concurrency=8)
def guarded_and_limited() -> None:
    pass


@app.task
def finish() -> None:
    """Report the end of a batch. The worker has one process, so tasks run in the order of their arrival."""
    world.lpush("finished", os.getpid())


die_with_parent()
