"""The configured backend, and whether it is available.

While the backend is unavailable, guards decide in the memory of this process (``Store.local``).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from .. import events
from .._util.clock import SECOND, Clock, microseconds, monotonic
from .._util.fork import renewed_after_fork
from .._util.interrupts import interruptions
from .._util.steps import Steps, acall, arun, call, run
from ..backends.base import Backend
from ..backends.batches import Batches, answers, to_decide
from ..backends.memory import MemoryBackend
from ..errors import BackendError, CircuitBreakerError
from ..events import Event, StoreAvailabilityChanged
from ..policies import Verdict
from ..protocol.call import Call, Key

logger = logging.getLogger("ratelimit_core")

RETRY_AFTER = 5.0
"""The default time between two attempts to reach an unavailable store, in seconds."""
observer: Callable[[float, bool], None] | None = None
"""A function that metrics set. It is called after each round trip to a shared store that decides calls.

Its arguments are the duration of the round trip in seconds, and whether the round trip failed.
"""


class Store:
    """A backend, and whether it is available to this process.

    The first call that fails takes at most the backend's timeout, and makes the backend unavailable. While the backend
    is unavailable, :meth:`apply` and :meth:`apply_each` raise at once. Every ``retry_after`` seconds, one call tries
    the backend again.
    """

    def __init__(self, backend: Backend, *, retry_after: float = RETRY_AFTER, clock: Clock = monotonic) -> None:
        self.backend = backend
        self.shared = backend.shared
        self.local = MemoryBackend(enable_circuit_breaker=False)
        self._retry_after = microseconds(retry_after)
        self._clock = clock
        self._unavailable_until = 0
        self._same_outage_until = 0
        self._lock = threading.RLock()
        _stores.add(self)

    @property
    def available(self) -> bool:
        """Whether the backend is available: False from an outage until the backend answers again."""
        return not self._unavailable_until

    def apply(self, calls: Sequence[Call]) -> list[Verdict]:
        """Do the same as :meth:`Backend.apply`.

        Raises:
            BackendError: the backend is unavailable, and is tried again in ``retry_after`` seconds. If ``is_outage`` is
                false, only this call failed.
        """
        if self._unavailable_until or observer is not None:
            return run(self._try("apply_unguarded", calls), call)
        try:  # not by steps, which would make a decision in memory a sixth slower
            return self.backend.apply_unguarded(calls)
        except BackendError as error:
            return run(self._fail(error), call)

    async def aapply(self, calls: Sequence[Call]) -> list[Verdict]:
        """Do the same as :meth:`apply`, without blocking the event loop."""
        if self._unavailable_until or observer is not None:
            return await arun(self._try("apply_unguarded", calls), acall)
        try:
            return await self.backend.aapply_unguarded(calls)
        except BackendError as error:
            return await arun(self._fail(error), acall)

    def apply_each(self, batches: Batches, most: int | None = None) -> list[list[Verdict]]:
        """Do the same as :meth:`Backend.apply_each`. Raise the same errors as :meth:`apply`.

        While the backend is unavailable, a caller may decide the batches by ``local.apply_each``.
        """
        return run(self._try_each(batches, most), call)

    async def aapply_each(self, batches: Batches, most: int | None = None) -> list[list[Verdict]]:
        """Do the same as :meth:`apply_each`, without blocking the event loop."""
        return await arun(self._try_each(batches, most), acall)

    def apply_best_effort(self, calls: Sequence[Call], local: bool) -> None:
        """Apply ``calls``. They are lost if the store is unavailable. A lease that is not released ends by itself.

        Costs one round trip. Costs none if ``calls`` is empty or ``local`` is true.

        Args:
            local: whether to apply the calls in the memory of this process.
        """
        run(self._try_best_effort(calls, local), call)

    async def aapply_best_effort(self, calls: Sequence[Call], local: bool) -> None:
        """Do the same as :meth:`apply_best_effort`, without blocking the event loop."""
        await arun(self._try_best_effort(calls, local), acall)

    def append_history(self, key: Key, entry: str, keep: int, seconds: int, local: bool) -> None:
        """Do the same as :meth:`Backend.append`, in the memory of this process if ``local``.

        The entry is lost if the store is unavailable.
        """
        run(self._append_history(key, entry, keep, seconds, local), call)

    async def aappend_history(self, key: Key, entry: str, keep: int, seconds: int, local: bool) -> None:
        """Do the same as :meth:`append_history`, without blocking the event loop."""
        await arun(self._append_history(key, entry, keep, seconds, local), acall)

    def emit(self, event: Event | None) -> None:
        """Call the subscribers with ``event``, if there is one."""
        if event is not None:
            events.emit(event)

    async def aemit(self, event: Event | None) -> None:
        """Do the same as :meth:`emit`, without blocking the event loop."""
        if event is not None:
            await events.aemit(event)

    def reset_local_state(self) -> None:
        """Delete the local records, and consider the backend available."""
        self.local.clear()
        self._unavailable_until = self._same_outage_until = 0

    # Steps for callers that block and for callers that await: see `_util.steps`

    def _try(self, method: str, *arguments: Any) -> Steps[Any]:
        """Call a method of the backend, measure the duration, and note whether the backend answered."""
        recovering = self._enter()
        began = time.perf_counter() if observer is not None else 0.0
        try:
            verdicts = yield self.backend, method, *arguments
        except BackendError as error:
            self._observe(began, failed=True)
            return (yield from self._fail(error))
        self._observe(began, failed=False)
        if recovering:
            yield self, "emit", self._set_unavailable_until(0)
        return verdicts

    def _try_each(self, batches: Batches, most: int | None) -> Steps[list[list[Verdict]]]:
        asked = to_decide(batches, most)
        found = (yield from self._try("apply_each_unguarded", asked, most)) if asked else []
        return answers(batches, found)

    def _enter(self) -> bool:
        """Return whether this call tries to reach an unavailable backend.

        Raises:
            BackendError: the backend is unavailable, and it is not yet time to try it again.
        """
        if not self._unavailable_until:
            return False
        with self._lock:
            now = self._clock()
            left = self._unavailable_until - now
            if left <= 0 and self._unavailable_until:  # this call tries the backend, while other calls skip it
                self._unavailable_until = now + self._retry_after
        if left > 0:
            raise BackendError("the shared store is unavailable", retry_after=left / SECOND)
        return True

    def _fail(self, error: BackendError) -> Steps[list[Verdict]]:
        """Note that the backend is unavailable, if ``error`` is an outage. Raise ``error``."""
        if error.is_outage:
            error.retry_after = self._retry_after / SECOND
            yield self, "emit", self._set_unavailable_until(self._clock() + self._retry_after, str(error))
        raise error

    def _set_unavailable_until(self, time: int, reason: str = "") -> StoreAvailabilityChanged | None:
        """Set the time in µs at which the backend is tried again, or 0 if the backend is available.

        Return the event if the availability changed, otherwise None.
        """
        available = not time
        with self._lock:
            was_available = self.available
            if available and not was_available:
                self._same_outage_until = self._clock() + self._retry_after
            elif was_available and not available and self._clock() >= self._same_outage_until:
                # A new outage begins with empty local records. It is the same outage if the backend only answered
                # for a moment, for example because it can be read but not written.
                self.local.clear()
            self._unavailable_until = time
        return None if available == was_available else StoreAvailabilityChanged(available=available, reason=reason)

    def _observe(self, began: float, *, failed: bool) -> None:
        global observer
        if began and self.shared and observer is not None:
            try:
                observer(time.perf_counter() - began, failed)
            except tuple(interruptions):
                raise
            except Exception:  # a guard must not fail because of metrics
                observer = None
                logger.exception("measuring a round trip to the store failed, so this process stops measuring")

    def _try_best_effort(self, calls: Sequence[Call], local: bool) -> Steps[None]:
        if calls:
            with suppress(BackendError):
                yield self.local if local else self, "apply", calls

    def _append_history(self, key: Key, entry: str, keep: int, seconds: int, local: bool) -> Steps[None]:
        with suppress(BackendError, CircuitBreakerError):
            yield self.local if local else self.backend, "append", key, entry, keep, seconds

    def _after_fork(self) -> None:
        self._lock = threading.RLock()


_stores = renewed_after_fork(Store._after_fork)
