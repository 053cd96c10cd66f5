"""The backends. Each backend runs policies next to the records of one kind of store."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..protocol.call import Call
from .base import Backend
from .memory import MemoryBackend

if TYPE_CHECKING:
    from .database import DatabaseBackend
    from .multi import MultiBackend
    from .redis_backend import RedisBackend

_HOMES = {"DatabaseBackend": "database", "MultiBackend": "multi", "RedisBackend": "redis_backend"}

__all__ = ["Backend", "Call", "DatabaseBackend", "MemoryBackend", "MultiBackend", "RedisBackend"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:  # imported at first use, so that only the drivers of the stores in use have to be installed
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
