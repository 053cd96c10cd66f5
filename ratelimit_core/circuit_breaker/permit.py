"""Permits: each lets one call through a breaker, and records the call's outcome."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextvars import ContextVar, Token
from typing import Any, TypeVar

from ..protocol.call import Call
from ..store.drive import Steps, adrive, drive
from ..store.fallback import Store
from .cache import BreakerCache
from .settle import already_recorded, classify, count_locally, settle_steps

R = TypeVar("R")


class Permit:
    """The breaker's permission for one call. Settle it once, with the call's outcome. Later outcomes are ignored.

    Attributes:
        generation: the breaker's generation when the permit was issued. The store counts outcomes of no other one.
        lease_id: the id of the lease that the call holds if it is a probe.
        probe: whether the call is a half-open probe, so that its outcome is reported at once.
        local: whether the permit was issued without the store.
        settled: whether the permit has been settled.
        extra_calls: calls to the store that are sent when the permit is settled. They share the report's round trip.
        began_at: when the call began, in µs on the breaker's clock.
    """

    __slots__ = ("_cache", "began_at", "extra_calls", "generation", "lease_id", "local", "probe", "settled")

    def __init__(
        self, cache: BreakerCache, generation: int, *, lease_id: str = "", probe: bool = False, local: bool = False
    ) -> None:
        self._cache = cache
        self.settled = False
        self.began_at = cache.clock()
        self.generation = generation
        self.lease_id = lease_id
        self.probe = probe
        self.local = local
        self.extra_calls: Sequence[Call] = ()

    def success(self) -> None:
        """Record a success.

        Costs no round trip while the breaker is closed, unless the call was slow or the success resets failures. Such a
        success, and the success of a probe, cost as much as a :meth:`failure`.
        """
        if not self._counted():
            drive(self._settle(successes=1), self.store)

    def failure(self, error: BaseException | None = None) -> float:
        """Record a failure. Return the seconds until the next probe, or 0 if the breaker is not open.

        For a permit that is already settled, return 0.

        Costs one round trip, and one more for the history if the failure changes the breaker's state.
        """
        return drive(self._settle(failures=1, error=error), self.store)

    def cancel(self) -> None:
        """Settle the permit without an outcome. Costs one round trip for a probe or ``extra_calls``, otherwise none."""
        drive(self._settle(), self.store)

    def record(self, error: BaseException | None) -> float:
        """Settle the permit with the exception that the call raised, or None. Return the same as :meth:`failure`.

        The breaker's settings say whether the exception is a failure, is a success, or does not count.
        """
        return drive(self.record_steps(error), self.store)

    def record_result(self, result: Any) -> None:
        """Settle the permit with the call's result. The setting ``is_failure`` says whether the result is a failure."""
        if self._cache.config.is_failure is None:
            self.success()
        else:
            drive(self.record_result_steps(result), self.store)

    async def asuccess(self) -> None:
        """Do as :meth:`success` does, without blocking the event loop."""
        await adrive(self._settle(successes=1), self.store)

    async def afailure(self, error: BaseException | None = None) -> float:
        """Do as :meth:`failure` does, without blocking the event loop."""
        return await adrive(self._settle(failures=1, error=error), self.store)

    async def acancel(self) -> None:
        """Do as :meth:`cancel` does, without blocking the event loop."""
        await adrive(self._settle(), self.store)

    async def arecord(self, error: BaseException | None) -> float:
        """Do as :meth:`record` does, without blocking the event loop."""
        return await adrive(self.record_steps(error), self.store)

    async def arecord_result(self, result: Any) -> None:
        """Do as :meth:`record_result` does, without blocking the event loop."""
        await adrive(self.record_result_steps(result), self.store)

    @property
    def store(self) -> Store:
        """The store that the outcome is reported to."""
        return self._cache.store

    def record_steps(self, error: BaseException | None) -> Steps[float]:
        """Return the steps of :meth:`record`."""
        config = self._cache.config
        match classify(config, error):
            case True:
                return self._settle(successes=1)
            case False if error is not None and already_recorded(config, error, self.began_at):
                return self._settle_duplicate()
            case False:
                return self._settle(failures=1, error=error)
            case None:
                return self._settle()

    def _settle_duplicate(self) -> Steps[float]:
        """Settle without an outcome, because an inner call through the same breaker has recorded the same error."""
        yield from self._settle()
        return self._cache.seconds_to_probe()

    def record_result_steps(self, result: Any) -> Steps[float]:
        """Return the steps of :meth:`record_result`."""
        is_failure = self._cache.config.is_failure
        try:
            failed = is_failure is not None and is_failure(result)
        except BaseException:
            yield from self._settle()
            raise
        return (yield from self._settle(failures=1) if failed else self._settle(successes=1))

    def run(self, function: Callable[..., R], *args: Any, **kwargs: Any) -> R:
        """Call ``function``. In a probe, inner calls through the same breaker belong to the probe."""
        if not self.probe:
            return function(*args, **kwargs)
        before = probes.push(self)
        try:
            return function(*args, **kwargs)
        finally:
            probes.reset(before)

    def is_of(self, cache: BreakerCache) -> bool:
        """Return whether ``cache`` issued the permit."""
        return self._cache is cache

    def goes_to(self, store: Store, *, local: bool) -> bool:
        """Return whether the outcome is reported to ``store`` or, if ``local``, to that store's memory fallback."""
        return self._cache.store is store and self.local == local

    def _counted(self) -> bool:
        """Settle a success without a report. Return False if the success may have to be reported now."""
        if self.settled:
            return True
        self.settled = not self.probe and not self.extra_calls and count_locally(self._cache, self)
        return self.settled

    def _settle(self, *, successes: int = 0, failures: int = 0, error: BaseException | None = None) -> Steps[float]:
        if self.settled:
            return 0.0
        self.settled = True
        cache = self._cache
        took = cache.clock() - self.began_at
        return (yield from settle_steps(cache, self, took, successes=successes, failures=failures, error=error))


class PermitStack:
    """The permits that a thread or task holds for one purpose. A forked child starts without permits.

    Args:
        name: the name of the context variable.
        most: the maximum number of permits. If there are more, the oldest are dropped. None: no maximum.
    """

    def __init__(self, name: str, *, most: int | None = None) -> None:
        self._permits: ContextVar[tuple[Permit, ...]] = ContextVar(name, default=())
        self._most = most
        os.register_at_fork(after_in_child=lambda: self._permits.set(()))

    def get(self) -> tuple[Permit, ...]:
        """Return the permits, oldest first."""
        return self._permits.get()

    def push(self, permit: Permit) -> Token[tuple[Permit, ...]]:
        """Add a permit. Return the token to pass to :meth:`reset`."""
        permits = (*self._permits.get(), permit)
        return self._permits.set(permits if self._most is None else permits[-self._most :])

    def reset(self, before: Token[tuple[Permit, ...]]) -> None:
        """Restore the permits from before a :meth:`push`."""
        self._permits.reset(before)

    def take(self, cache: BreakerCache) -> Permit | None:
        """Remove and return the newest permit that ``cache`` issued, or return None."""
        permits = self._permits.get()
        for permit in reversed(permits):
            if permit._cache is cache:
                self._permits.set(tuple(other for other in permits if other is not permit))
                return permit
        return None


probes = PermitStack("probes")
"""The permits of the probes whose functions run in this thread or task."""
