"""Leave to make one call, and how its outcome is judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

from .backends.base import Call
from .store import Store

if TYPE_CHECKING:
    from .breaker_state import BreakerState

R = TypeVar("R")


class Permit:
    """Leave to make one call. Settle it once: what comes after the first settling is ignored.

    Attributes:
        generation: the breaker's generation that gave it; an outcome counts only in that one.
        probe: whether the call is a half-open probe, which holds one of the few places.
        riders: calls that go along when it is settled: in the report's round trip, or in one of their own.
    """

    __slots__ = ("_began", "_state", "generation", "local", "probe", "riders", "settled", "ticket")

    def __init__(self, state: BreakerState, generation: int, *, ticket: str, probe: bool, local: bool) -> None:
        self._state = state
        self.settled = False
        self._began = state.clock()
        self.generation = generation
        self.ticket = ticket
        self.probe = probe
        self.local = local
        self.riders: Sequence[Call] = ()

    def success(self) -> None:
        """The call answered. No round trip while the breaker is closed."""
        self._settle(good=1)

    def failure(self, error: BaseException | None = None) -> float:
        """The call failed. One round trip. Returns the seconds until the next probe: 0 if it is not open."""
        return self._settle(bad=1, error=error)

    def cancel(self) -> None:
        """Nothing can be said: give the permit back unjudged. One round trip for a probe, else none."""
        self._settle()

    def judge(self, error: BaseException | None) -> float:
        """Settle by what the call raised, as the breaker is configured."""
        match self._state.verdict_on(error):
            case True:
                return self._settle(good=1)
            case False:
                return self._settle(bad=1, error=error)
            case None:
                return self._settle()

    def judge_result(self, result: Any) -> None:
        """Settle by what the call returned."""
        is_failure = self._state.config.failure_result
        try:
            failed = is_failure is not None and is_failure(result)
        except BaseException:
            self.cancel()
            raise
        if failed:
            self.failure()
        else:
            self.success()

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

    def tells(self) -> bool:
        """Whether an answer may cost a round trip."""
        state, config = self._state, self._state.config
        judged = config.failure_result is not None or config.slow_call_duration is not None
        return self.probe or judged or bool(self.riders) or state._known_failures > 0

    def _settle(self, *, good: int = 0, bad: int = 0, error: BaseException | None = None) -> float:
        if self.settled:
            return 0.0
        self.settled = True
        return self._state.settle(self, self._state.clock() - self._began, good, bad, error)


probes: ContextVar[tuple[Permit, ...]] = ContextVar("probes", default=())
"""The probes whose functions are running in this thread."""
