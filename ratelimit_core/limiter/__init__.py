"""Rate limits and concurrency limits that hold in all processes that share a backend."""

from __future__ import annotations

from .decision import Decision
from .limit import Algorithm
from .limiter import Limiter

__all__ = ["Algorithm", "Decision", "Limiter"]
