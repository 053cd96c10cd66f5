"""Leave to make one call, and how its outcome is judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

from ..protocol.call import Call
from ..store.drive import Steps, arun, run
from ..store.fallback import Store

if TYPE_CHECKING:
    from .cache import BreakerState

R = TypeVar("R")


class Permit:
    """Leave to make one call. Settle it once: what comes after the first settling is ignored.

    Attributes:
        generation: the breaker's generation that gave it; an outcome counts only in that one.
        probe: whether the call is a half-open probe, which holds one of the few places.
        extra_calls: calls that go along when it is settled: in the report's round trip, or in one of their own.
    """

    __slots__ = ("_began", "_state", "extra_calls", "generation", "local", "probe", "settled", "ticket")

    def __init__(self, state: BreakerState, generation: int, *, ticket: str, probe: bool, local: bool) -> None:
        self._state = state
        self.settled = False
        self._began = state.clock()
        self.generation = generation
        self.ticket = ticket
        self.probe = probe
        self.local = local
        self.extra_calls: Sequence[Call] = ()

    def success(self) -> None:
        """The call answered. No round trip while the breaker is closed."""
        if not self._counted():
            run(self._settling(good=1), self.store)

    def failure(self, error: BaseException | None = None) -> float:
        """The call failed. Returns the seconds until the next probe: 0 if it is not open.

        One round trip; one more, for the history, if that changes the breaker's state.
        """
        return run(self._settling(bad=1, error=error), self.store)

    def cancel(self) -> None:
        """Nothing can be said: give the permit back unjudged. One round trip for a probe, else none."""
        run(self._settling(), self.store)

    def record(self, error: BaseException | None) -> float:
        """Settle by what the call raised, as the breaker is configured."""
        return run(self.record_steps(error), self.store)

    def record_result(self, result: Any) -> None:
        """Settle by what the call returned."""
        if self._state.config.is_failure is None:
            self.success()
        else:
            run(self.record_result_steps(result), self.store)

    async def asuccess(self) -> None:
        """:meth:`success` without blocking the event loop."""
        await arun(self._settling(good=1), self.store)

    async def afailure(self, error: BaseException | None = None) -> float:
        """:meth:`failure` without blocking the event loop."""
        return await arun(self._settling(bad=1, error=error), self.store)

    async def acancel(self) -> None:
        """:meth:`cancel` without blocking the event loop."""
        await arun(self._settling(), self.store)

    async def arecord(self, error: BaseException | None) -> float:
        """:meth:`record` without blocking the event loop."""
        return await arun(self.record_steps(error), self.store)

    async def arecord_result(self, result: Any) -> None:
        """:meth:`record_result` without blocking the event loop."""
        await arun(self.record_result_steps(result), self.store)

    @property
    def store(self) -> Store:
        """The store that is told."""
        return self._state.store

    def record_steps(self, error: BaseException | None) -> Steps[float]:
        """:meth:`record`, as steps."""
        match self._state.verdict_on(error):
            case True:
                return self._settling(good=1)
            case False if error is not None and self._state.has_heard(error, self._began):
                return self._settling_after_another()
            case False:
                return self._settling(bad=1, error=error)
            case None:
                return self._settling()

    def _settling_after_another(self) -> Steps[float]:
        """This very error was a failure of a call within this one, through the same breaker: it counts once."""
        yield from self._settling()
        return self._state.refuses_for()

    def record_result_steps(self, result: Any) -> Steps[float]:
        """:meth:`record_result`, as steps."""
        is_failure = self._state.config.is_failure
        try:
            failed = is_failure is not None and is_failure(result)
        except BaseException:
            yield from self._settling()
            raise
        return (yield from self._settling(bad=1) if failed else self._settling(good=1))

    def run(self, function: Callable[..., R], *args: Any, **kwargs: Any) -> R:
        """Call ``function``. What a probe calls through its own breaker again is still that probe."""
        if not self.probe:
            return function(*args, **kwargs)
        before = probes.set((*probes.get(), self))
        try:
            return function(*args, **kwargs)
        finally:
            probes.reset(before)

    def goes_to(self, store: Store, *, local: bool) -> bool:
        """Whether its outcome is told to that store, or to the local one beside it."""
        return self._state.store is store and self.local == local

    def _counted(self) -> bool:
        """Settle a success that need not be told now; this is the healthy path. False: it is not settled."""
        if self.settled:
            return True
        self.settled = not self.probe and not self.extra_calls and self._state.count(self)
        return self.settled

    def _settling(self, *, good: int = 0, bad: int = 0, error: BaseException | None = None) -> Steps[float]:
        if self.settled:
            return 0.0
        self.settled = True
        return (yield from self._state.settling(self, self._state.clock() - self._began, good, bad, error))


probes: ContextVar[tuple[Permit, ...]] = ContextVar("probes", default=())
"""The probes whose functions are running in this thread."""
