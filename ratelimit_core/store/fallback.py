"""What guards ask: the configured backend and, while that is away, the memory of this process."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from .._util.clock import SECOND, Clock, microseconds, monotonic
from .._util.fork import renewed_after_fork
from .._util.interrupts import interruptions
from ..backends.base import Backend
from ..backends.memory import MemoryBackend
from ..errors import BackendError, CircuitBreakerError
from ..events import Event, StoreAvailabilityChanged, aemit, emit
from ..policies import Verdict
from ..protocol.call import Call, Key

logger = logging.getLogger("ratelimit_core")

RETRY_AFTER = 5.0
"""Seconds between two attempts to reach a store that is away."""
observer: Callable[[float, bool], None] | None = None
"""Is told how many seconds a round trip to a shared store took, and whether it failed: see ratelimit_core.metrics."""


class Store:
    """A backend behind a breaker of threshold 1, for the whole process.

    The first call that fails pays for it, with the backend's timeout at most. From then on :meth:`apply`
    raises at once, and one thread every ``retry_after`` seconds tries anew while the others go on.
    """

    def __init__(self, backend: Backend, *, retry_after: float = RETRY_AFTER, clock: Clock = monotonic) -> None:
        self.backend = backend
        self.shared = backend.shared
        self.local = MemoryBackend(enable_circuit_breaker=False)
        self._retry_after = microseconds(retry_after)
        self._clock = clock
        self._away_until = 0
        self._same_outage_until = 0
        self._lock = threading.RLock()
        _stores.add(self)

    @property
    def up(self) -> bool:
        """Whether the backend answered the last time it was asked."""
        return not self._away_until

    def apply(self, calls: Sequence[Call]) -> list[Verdict]:
        """:meth:`Backend.apply`.

        Raises:
            BackendError: the backend is away, and ``retry_after`` says when it is tried again; or it could not be
                asked this once.
        """
        returning = self._enter()
        began = time.perf_counter() if observer is not None else 0.0
        try:
            verdicts = self.backend.attempt(calls)
        except BackendError as error:
            self._observe(began, failed=True)
            self.announce(self._failed(error))
            raise
        if began:
            self._observe(began, failed=False)
        if returning:
            self.announce(self._changed(0))
        return verdicts

    async def aapply(self, calls: Sequence[Call]) -> list[Verdict]:
        """:meth:`apply` without blocking the event loop."""
        returning = self._enter()
        began = time.perf_counter() if observer is not None else 0.0
        try:
            verdicts = await self.backend.aattempt(calls)
        except BackendError as error:
            self._observe(began, failed=True)
            await self.aannounce(self._failed(error))
            raise
        if began:
            self._observe(began, failed=False)
        if returning:
            await self.aannounce(self._changed(0))
        return verdicts

    def _observe(self, began: float, *, failed: bool) -> None:
        global observer
        if began and self.shared and observer is not None:
            try:
                observer(time.perf_counter() - began, failed)
            except tuple(interruptions):
                raise
            except Exception:  # a guard never fails for what is told of it
                observer = None
                logger.exception("round trips to the store are not measured any more")

    def _enter(self) -> bool:
        """Whether this is an attempt to reach a store that was away."""
        if not self._away_until:
            return False
        with self._lock:
            now = self._clock()
            left = self._away_until - now
            if left <= 0 and self._away_until:  # this thread tries; to the others the store is away as before
                self._away_until = now + self._retry_after
        if left > 0:
            raise BackendError("the shared store is away", retry_after=left / SECOND)
        return True

    def tell(self, calls: Sequence[Call], local: bool) -> None:
        """Apply what need not arrive: a lease that is not given back ends by itself. No round trip for nothing."""
        if calls:
            with suppress(BackendError):
                (self.local if local else self).apply(calls)

    async def atell(self, calls: Sequence[Call], local: bool) -> None:
        """:meth:`tell` without blocking the event loop."""
        if calls:
            with suppress(BackendError):
                await (self.local if local else self).aapply(calls)

    def note(self, key: Key, entry: str, keep: int, seconds: int, local: bool) -> None:
        """Add to a journal what need not arrive."""
        with suppress(BackendError, CircuitBreakerError):
            (self.local if local else self.backend).append(key, entry, keep=keep, seconds=seconds)

    async def anote(self, key: Key, entry: str, keep: int, seconds: int, local: bool) -> None:
        """:meth:`note` without blocking the event loop."""
        if local or not self.shared:
            self.note(key, entry, keep, seconds, local)
        else:
            await asyncio.to_thread(self.note, key, entry, keep, seconds, local)

    def announce(self, event: Event | None) -> None:
        """Tell the subscribers, if there is anything to tell."""
        if event is not None:
            emit(event)

    async def aannounce(self, event: Event | None) -> None:
        """:meth:`announce` without blocking the event loop."""
        if event is not None:
            await aemit(event)

    def _failed(self, error: BackendError) -> StoreAvailabilityChanged | None:
        if not error.away:
            return None
        error.retry_after = self._retry_after / SECOND
        return self._changed(self._clock() + self._retry_after, str(error))

    def _changed(self, away_until: int, reason: str = "") -> StoreAvailabilityChanged | None:
        """Note whether the store is there; what is to be announced of it."""
        up = not away_until
        with self._lock:
            was_up = self.up
            if up and not was_up:
                self._same_outage_until = self._clock() + self._retry_after
            elif (
                was_up and not up and self._clock() >= self._same_outage_until
            ):  # else it answers, but can't write, say
                self.local.clear()  # this process begins anew
            self._away_until = away_until
        return StoreAvailabilityChanged(available=up, reason=reason) if up != was_up else None

    def _after_fork(self) -> None:
        self._lock = threading.RLock()


_stores = renewed_after_fork(Store._after_fork)
