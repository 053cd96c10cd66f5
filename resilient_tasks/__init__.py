"""Celery tasks that know when the service they depend on is down.

``@breaker_task`` is ``@shared_task`` with a circuit breaker and limits that the whole fleet shares; ``install(app)``
gives them to tasks that nobody touches, by a table in the configuration.
"""

from __future__ import annotations

from .decorators import breaker_task, rate_limited_task
from .execution.deferral import DeferralFailed, MaxWaitExceeded
from .installation import install
from .task import ResilientTask

__all__ = ["DeferralFailed", "MaxWaitExceeded", "ResilientTask", "breaker_task", "install", "rate_limited_task"]
