"""Rate limits and concurrency limits that all processes on one backend share."""

from __future__ import annotations

from .decision import Decision
from .limit import Algorithm
from .limiter import Limiter

__all__ = ["Algorithm", "Decision", "Limiter"]
