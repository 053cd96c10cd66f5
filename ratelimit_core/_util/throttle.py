"""Looks at the whole fleet that many ask for and few may take."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar
from weakref import WeakSet

from .clock import monotonic
from .fork import renewed_after_fork

_RESTS = 10
"""After a look the store has ten times as long to itself: of very many breakers one takes a while."""


T = TypeVar("T")


class Resting(Generic[T]):
    """Calls ``look`` for whoever asks, but not before what it found last is old: see :data:`_RESTS`.

    Args:
        look: what to call, in one thread at a time.
        at_least: microseconds for which it is good in any case.
    """

    def __init__(self, look: Callable[[], T], at_least: int = 0) -> None:
        self._look = look
        self._at_least = at_least
        self._begin()
        _instances.add(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()  # after a fork, a thread of the parent's may hold the other
        self._last: tuple[int, T] | None = None

    def __call__(self) -> T:
        """What there is, or was a moment ago."""
        with self._lock:
            began = monotonic()
            if self._last is None or began >= self._last[0]:
                found = self._look()
                now = monotonic()
                self._last = now + max(self._at_least, _RESTS * (now - began)), found
            return self._last[1]

    def replace(self, found: T, better: T) -> None:
        """Know ``better``, if ``found`` is still what was found last."""
        with self._lock:
            if self._last is not None and self._last[1] is found:
                self._last = self._last[0], better

    def forget(self) -> None:
        """Look anew next time: somebody has just acted, and wants to see it."""
        with self._lock:
            self._last = None


_instances: WeakSet[Resting[Any]] = renewed_after_fork(Resting._begin)
