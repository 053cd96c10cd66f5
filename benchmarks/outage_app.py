"""The app of the workers of ``benchmarks.outage``: ``celery -A benchmarks.outage_app worker``."""

from __future__ import annotations

import os
import time
from contextvars import ContextVar
from typing import Any

import redis
from celery import Celery
from celery.signals import task_prerun, task_received

from example_worker.processes import die_with_parent
from ratelimit_core import Backoff
from resilient_tasks import breaker_task, rate_limited_task

STORE = os.environ.get("BENCH_STORE", "redis://127.0.0.1:6379")
RELEASED_PER_SECOND = 200
BREAKER: dict[str, Any] = {
    "breaker": "bench",
    "failure_threshold": 5,
    "recovery_timeout": 2,
    "exponential_backoff_max": 4,
}

app = Celery("bench", broker=os.environ.get("BENCH_BROKER", f"{STORE}/0"))
app.conf.update(
    resilience_backend=f"{STORE}/1",
    broker_connection_retry_on_startup=True,
    task_ignore_result=True,
    task_routes={"benchmarks.outage_app.pause": {"queue": "pausing"}},
    worker_prefetch_multiplier=4,
)
if os.environ.get("BENCH_QUEUES") == "quorum":
    app.conf.update(
        task_default_queue_type="quorum",
        task_default_exchange_type="topic",
        task_create_missing_queue_type="quorum",
        task_create_missing_queue_exchange_type="topic",
        broker_transport_options={"confirm_publish": True},
    )
asked_at = ContextVar("asked_at", default=0.0)  # the time before a run asks the limiter
world: Any = redis.Redis.from_url(f"{STORE}/2", decode_responses=True)
_protected: dict[str, Any] = {
    **BREAKER,
    "resume_rate": f"{RELEASED_PER_SECOND}/s",
    "retry_for": (ConnectionError,),
    "max_retries": 3,
    "backoff": Backoff(base=0.5, max=2),
    "acks_late": True,
}


def call(order: int) -> None:
    """Call the service, which answers within a few milliseconds or is down. Every task calls this."""
    with world.pipeline() as pipe:
        down, _ = pipe.exists("down").rpush("calls", f"{time.time():.6f}").execute()
    if down:
        world.incr("calls while down")
        raise ConnectionError("no answer")
    time.sleep(0.005)
    world.hincrby("runs", str(order), 1)


@breaker_task(**_protected, on_open="defer")
def defer(order: int) -> None:
    call(order)


@breaker_task(**_protected, on_open="pause")
def pause(order: int) -> None:
    call(order)


@rate_limited_task(rate="10/s", acks_late=True)
def limited(order: int) -> None:
    world.rpush("limited", f"{asked_at.get():.6f} {time.time():.6f}")


@task_prerun.connect
def begin(**_: Any) -> None:
    asked_at.set(time.time())


@task_received.connect
def count(request: Any, **_: Any) -> None:
    world.hincrby("deliveries", request.id, 1)


die_with_parent()
