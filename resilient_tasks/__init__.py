"""Celery tasks that wait while a dependency is down.

``@breaker_task`` is ``@shared_task`` with a circuit breaker and limits that the whole fleet shares. ``install(app)``
protects existing tasks by a routing table in the app's configuration, without a change to the tasks.
"""

from __future__ import annotations

from .decorators import breaker_task, rate_limited_task
from .execution.deferral import DeferralFailed, MaxWaitExceeded
from .installation import install
from .task import ResilientTask

__all__ = ["DeferralFailed", "MaxWaitExceeded", "ResilientTask", "breaker_task", "install", "rate_limited_task"]
