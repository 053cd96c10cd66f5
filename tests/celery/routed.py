"""An app whose tasks know nothing of resilience: its configuration does. ``celery -A tests.celery.routed worker``."""

from __future__ import annotations

import os
import time
from typing import Any

import redis
from celery import Celery, Task, chain, chord, shared_task

from resilient_tasks import install

URL = os.environ["FLEET_URL"]
app = Celery("routed", broker=f"{URL}/4", backend=f"{URL}/5")
install(app)
app.conf.update(
    resilience_backend=f"{URL}/6",
    broker_connection_retry_on_startup=True,
    worker_send_task_events=True,
    result_extended=True,
    task_routes={"mail.*": {"queue": "mail"}},
    resilience={
        "payments.*": {
            "breaker": "routed-payments",
            "failure_threshold": 2,
            "recovery_timeout": 1,
            "exponential_backoff_max": 1,
            "on_open": "defer",
            "resume_rate": "100/s",
        },
        "slow.*": {"breaker": "routed-slow", "failure_threshold": 1, "recovery_timeout": 60, "concurrency": 1},
        "queue:mail": {"breaker": "routed-mail", "failure_threshold": 1, "recovery_timeout": 60, "on_open": "fail"},
        "tenants.*": {
            "breaker": "tenant:{tenant}",
            "failure_threshold": 1,
            "recovery_timeout": 60,
            "on_open": "fail",
        },
    },
)
world = redis.Redis.from_url(f"{URL}/7", decode_responses=True)


class Counting(Task):  # type: ignore[type-arg] # as users write it
    """Somebody's own base class, with hooks of its own."""

    abstract = True

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        world.incr("started")


def upstream() -> None:
    world.incr("calls")
    if world.exists("down"):
        raise ConnectionError("no answer")


@app.task(
    name="payments.charge",
    base=Counting,
    autoretry_for=(ConnectionError,),
    max_retries=1,
    default_retry_delay=0,
    shared=False,
)
def charge(order: int) -> int:
    upstream()
    return order


@shared_task(name="payments.refund", bind=True, max_retries=1, default_retry_delay=0)
def refund(self: Any, order: int) -> int:
    try:
        upstream()
    except ConnectionError as error:
        raise self.retry(exc=error) from error
    return order


@app.task(name="slow.report", time_limit=1, acks_late=True, shared=False)
def report(seconds: float) -> float:
    world.set("pid", os.getpid())
    time.sleep(seconds)
    return seconds


@app.task(name="slow.killed", acks_late=True, shared=False)
def killed() -> None:
    world.set("pid", os.getpid())
    time.sleep(60)


@app.task(name="mail.send", shared=False)
def send(order: int) -> int:
    upstream()
    return order


@app.task(name="tenants.sync", shared=False)
def sync(tenant: str) -> str:
    if tenant == "bad":
        raise ConnectionError("no answer")
    return tenant


@app.task(name="other.total", shared=False)
def total(orders: list[int]) -> int:
    world.incr("totals")
    return sum(orders)


@app.task(name="other.plain", shared=False)
def plain(order: int) -> int:
    return order


__all__ = ["app", "chain", "chord", "world"]
