"""What guards ask: the configured backend and, while that is away, the memory of this process."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Sequence
from contextlib import suppress
from typing import Literal

from .backends.base import Backend, Call
from .backends.memory import MemoryBackend
from .clock import SECOND, Clock, microseconds, monotonic
from .errors import BackendError
from .events import StoreChanged, emit
from .policies import Verdict

WhenDown = Literal["local", "open", "closed"]
"""What a guard does while the store is away: go on with this process's own state, let all through, or none."""

RETRY_AFTER = 5.0
"""Seconds between two attempts to reach a store that is away."""


class Store:
    """A backend behind a breaker of threshold 1, for the whole process.

    The first call that fails pays for it, with the backend's timeout at most. From then on :meth:`apply`
    raises at once, and one thread every ``retry_after`` seconds tries anew while the others go on.
    """

    def __init__(self, backend: Backend, *, retry_after: float = RETRY_AFTER, clock: Clock = monotonic) -> None:
        self.backend = backend
        self.shared = backend.shared
        self.local = MemoryBackend()
        self._retry_after = microseconds(retry_after)
        self._clock = clock
        self._away_until = 0
        self._lock = threading.RLock()
        _stores.add(self)

    @property
    def up(self) -> bool:
        """Whether the backend answered the last time it was asked."""
        return not self._away_until

    def apply(self, calls: Sequence[Call]) -> list[Verdict]:
        """:meth:`Backend.apply`.

        Raises:
            BackendError: the backend is away; ``retry_after`` says when it is tried again.
        """
        if not self._away_until:
            return self._ask(calls)
        with self._lock:
            now = self._clock()
            left = self._away_until - now
            if left <= 0 and self._away_until:  # this thread tries; to the others the store is away as before
                self._away_until = now + self._retry_after
        if left > 0:
            raise BackendError("the shared store is away", retry_after=left / SECOND)
        verdicts = self._ask(calls)
        self._changed(0)
        return verdicts

    def tell(self, calls: Sequence[Call], *, local: bool) -> None:
        """Apply what need not arrive: a lease that is not given back ends by itself. No round trip for nothing."""
        if calls:
            with suppress(BackendError):
                (self.local if local else self).apply(calls)

    def _ask(self, calls: Sequence[Call]) -> list[Verdict]:
        try:
            return self.backend.apply(calls)
        except BackendError as error:
            error.retry_after = self._retry_after / SECOND
            self._changed(self._clock() + self._retry_after, str(error))
            raise

    def _changed(self, away_until: int, reason: str = "") -> None:
        up = not away_until
        with self._lock:
            was_up = self.up
            if was_up and not up:
                self.local.clear()  # this process begins anew
            self._away_until = away_until
        if up != was_up:
            emit(StoreChanged(up=up, reason=reason))

    def _after_fork(self) -> None:
        self._lock = threading.RLock()


_stores: weakref.WeakSet[Store] = weakref.WeakSet()


def _after_fork() -> None:
    for store in list(_stores):
        store._after_fork()


os.register_at_fork(after_in_child=_after_fork)
