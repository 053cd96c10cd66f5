"""Where it is decided: stores that run policies next to their records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .base import Backend, Call
from .memory import MemoryBackend

if TYPE_CHECKING:
    from .redis_backend import RedisBackend

__all__ = ["Backend", "Call", "MemoryBackend", "RedisBackend"]


def __getattr__(name: str) -> Any:
    if name == "RedisBackend":  # the driver is imported only where it is used
        from .redis_backend import RedisBackend

        return RedisBackend
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
