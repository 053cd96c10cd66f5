"""The app that the workers of the soak run: ``celery -A tests.soak.app worker``."""

from __future__ import annotations

import gc
import os
from itertools import count
from typing import Any

import redis
import requests
from celery import Celery
from celery.signals import task_postrun, task_received, worker_init, worker_process_init

from example_worker.payments import post_charge
from example_worker.processes import die_with_parent
from ratelimit_core import Backoff
from resilient_tasks import breaker_task

BROKER = os.environ.get("SOAK_BROKER", "redis://127.0.0.1:6379")
STORE = os.environ.get("SOAK_STORE", "redis://127.0.0.1:6379/2")
VISIBILITY = 15
"""After so many seconds others get what a killed worker held."""
RATE = 20
"""Of both tasks, a second: who has one breaker has one limit."""
BREAKER: dict[str, Any] = {
    "failure_threshold": 5,
    "recovery_timeout": 1,
    "exponential_backoff_max": 2,
    "probe_timeout": 5,
}

app = Celery("soak", broker=f"{BROKER}/0")
app.conf.update(
    resilience_backend=STORE,
    broker_connection_retry_on_startup=True,
    broker_transport_options={"visibility_timeout": VISIBILITY, "unacked_restore_interval": 0.2},
    task_ignore_result=True,
    task_routes={"tests.soak.app.settle": {"queue": "settling"}},
    worker_prefetch_multiplier=1,
)
_ran = count(1)
ledger: Any = redis.Redis.from_url(f"{BROKER}/1", decode_responses=True)

_protected: dict[str, Any] = {
    **BREAKER,
    "breaker": "payments",
    "rate": f"{RATE}/s",
    "concurrency": 12,  # of which a killed worker leaves four behind, until their leases end
    "retry_for": (requests.RequestException,),
    "max_retries": 100,  # who fails without opening the breaker spends one, in one outage after another
    "backoff": Backoff(base=0.2, max=1),
    "acks_late": True,
    "reject_on_worker_lost": True,
    "time_limit": 12,
}


@task_received.connect
def note_redelivery(request: Any, **_: Any) -> None:
    if request.delivery_info.get("redelivered"):
        ledger.sadd("redelivered", request.id)


@worker_init.connect
@worker_process_init.connect
def follow(**_: object) -> None:
    """A worker ends with the soak, and a pool process with its worker, even with one that was killed."""
    die_with_parent()


@task_postrun.connect
def collect(**_: object) -> None:
    """Of what failed or waits Celery makes 0.2 MB of cycles: collected in time, they hide nothing that leaks."""
    if next(_ran) % 20 == 0:
        gc.collect()


@breaker_task(**_protected, bind=True, on_open="defer")
def charge(self: Any) -> None:
    pay(self.request.id)


@breaker_task(**_protected, bind=True, on_open="pause")
def settle(self: Any) -> None:
    pay(self.request.id)


def pay(order: str) -> None:
    post_charge(order, "9.90")
    ledger.hincrby("runs", order, 1)
