"""Throttle expensive reads of the whole fleet that many callers ask for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar
from weakref import WeakSet

from .clock import monotonic
from .fork import renewed_after_fork

_RESTS = 10
"""After a read, the next one waits ten times as long as this one took: with very many breakers a read is slow."""


T = TypeVar("T")


class Resting(Generic[T]):
    """A cache of the result of ``look``, which is called seldom enough to keep the store free (see :data:`_RESTS`).

    Args:
        look: the function to call, in one thread at a time.
        at_least: microseconds for which a result is reused in any case.
    """

    def __init__(self, look: Callable[[], T], at_least: int = 0) -> None:
        self._look = look
        self._at_least = at_least
        self._begin()
        _instances.add(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()  # after a fork, a thread of the parent may hold the old one
        self._last: tuple[int, T] | None = None

    def __call__(self) -> T:
        """Return the cached result, or a new one if the cached one is too old."""
        with self._lock:
            began = monotonic()
            if self._last is None or began >= self._last[0]:
                found = self._look()
                now = monotonic()
                self._last = now + max(self._at_least, _RESTS * (now - began)), found
            return self._last[1]

    def replace(self, found: T, better: T) -> None:
        """Replace the cached result with ``better``, if it is still ``found``."""
        with self._lock:
            if self._last is not None and self._last[1] is found:
                self._last = self._last[0], better

    def forget(self) -> None:
        """Drop the cached result, so that the next caller sees what an operator has just changed."""
        with self._lock:
            self._last = None


_instances: WeakSet[Resting[Any]] = renewed_after_fork(Resting._begin)
