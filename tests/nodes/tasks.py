"""The tasks of a worker node. It gets nothing of these tests but this file.

What the tasks do is said by the tests through the result backend: an upstream that is down, or slow, is a key that
exists.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import redis

from resilient_tasks import breaker_task


@cache
def world() -> Any:
    return redis.Redis.from_url(os.environ["CELERY_RESULT_BACKEND"], decode_responses=True)


def upstream() -> None:
    """What every task calls. Notes when, on the store's clock."""
    seconds, microseconds = world().time()
    world().rpush("calls", f"{seconds}.{microseconds:06}")
    if world().exists("slow"):
        world().blpop(["go on"], timeout=60)
    if world().exists("down"):
        raise ConnectionError("no answer")


ALWAYS: dict[str, Any] = {"failure_threshold": 1, "acks_late": True, "retry_for": (ConnectionError,), "max_retries": 1}


@breaker_task(**ALWAYS, breaker="courier", recovery_timeout=1, exponential_backoff_max=1, bind=True)
def deliver(self: Any) -> dict[str, Any]:
    upstream()
    deferrals = (self.request.headers or {}).get("resilience", {}).get("deferrals", 0)
    return {"id": self.request.id, "deliveries": 1 + deferrals + self.request.retries}


FERRY = 6.0


@breaker_task(**ALWAYS, breaker="ferry", recovery_timeout=FERRY)
def ship() -> None:
    upstream()


@breaker_task(**ALWAYS, breaker="airline", recovery_timeout=42)
def fly() -> None:
    upstream()
