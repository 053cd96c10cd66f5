"""One task, written twice: with plain Celery, and behind a breaker and a limit that the whole fleet shares."""

import requests
from celery import shared_task

from example_worker.payments import post_charge
from ratelimit_core import Backoff
from resilient_tasks import breaker_task

BREAKER = "payments"
CALLS_PER_SECOND = 20  # the payment service allows no more


@shared_task(
    autoretry_for=(requests.RequestException,),
    max_retries=3,
    retry_backoff=1,
    retry_backoff_max=4,
    retry_jitter=True,
    acks_late=True,
)
def charge_plain(order_id: str, amount: str) -> str:
    """Charge one order, with the retries of plain Celery."""
    return post_charge(order_id, amount)


@breaker_task(
    breaker=BREAKER,
    failure_threshold=5,
    recovery_timeout=2,
    exponential_backoff_max=4,
    rate=f"{CALLS_PER_SECOND}/s",
    retry_for=(requests.RequestException,),
    max_retries=3,
    backoff=Backoff(base=1, factor=2, max=4, jitter="full"),
    acks_late=True,
)
def charge(order_id: str, amount: str) -> str:
    """Charge one order, with the same retries, a breaker and a limit."""
    return post_charge(order_id, amount)
