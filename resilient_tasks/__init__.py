"""Celery tasks that know when the service they depend on is down.

``@breaker_task`` is ``@shared_task`` with a circuit breaker and limits that the whole fleet shares.
"""

from __future__ import annotations

from .decorators import breaker_task, rate_limited_task
from .task import ResilientTask
from .waiting import WaitedTooLong

__all__ = ["ResilientTask", "WaitedTooLong", "breaker_task", "rate_limited_task"]
