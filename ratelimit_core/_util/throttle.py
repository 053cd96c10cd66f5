"""Throttle reads of the whole fleet, which are slow and which many callers request."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar
from weakref import WeakSet

from .clock import monotonic
from .fork import renewed_after_fork

_RESTS = 10
"""The result of a read is reused for this many times as long as the read took."""


T = TypeVar("T")


class Resting(Generic[T]):
    """A cache of the result of ``look``. It limits the share of the time in which ``look`` runs.

    Args:
        look: the function that reads. Only one thread at a time calls it.
        at_least: the shortest time in µs for which a result is reused. The result of a slow read is reused for longer:
            see :data:`_RESTS`.
    """

    def __init__(self, look: Callable[[], T], at_least: int = 0) -> None:
        self._look = look
        self._at_least = at_least
        self._begin()
        _instances.add(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()  # in a forked child, a thread of the parent may hold the old lock
        self._last: tuple[int, T] | None = None

    def __call__(self) -> T:
        """Return the cached result, or call ``look`` if the cached result is too old."""
        with self._lock:
            began = monotonic()
            if self._last is None or began >= self._last[0]:
                found = self._look()
                now = monotonic()
                self._last = now + max(self._at_least, _RESTS * (now - began)), found
            return self._last[1]

    def replace(self, found: T, better: T) -> None:
        """Replace the cached result with ``better`` if the cached result is still ``found``."""
        with self._lock:
            if self._last is not None and self._last[1] is found:
                self._last = self._last[0], better

    def forget(self) -> None:
        """Drop the cached result, so that the next caller sees a change that an operator has just made."""
        with self._lock:
            self._last = None


_instances: WeakSet[Resting[Any]] = renewed_after_fork(Resting._begin)
