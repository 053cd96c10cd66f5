"""A guard asks a breaker and limits as one before a call, and settles them together after the call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from ._util.aio import acquired
from ._util.ids import new_id
from .circuit_breaker import CircuitBreaker
from .circuit_breaker.acquire import AcquireQuestion, cached_permit
from .circuit_breaker.breaker import cache_of
from .circuit_breaker.permit import Permit
from .errors import BackendError, ConfigurationError, ResilienceError
from .limiter import Decision, Limiter
from .limiter.batch import hit_check, limit_exceeded, refund
from .limiter.concurrency import release_calls
from .policies import ALLOWED
from .store.drive import Steps, adrive, drive
from .store.fallback import Store
from .store.question import Question

R = TypeVar("R")

__all__ = ["Admission", "Guard"]


_Prepared = Callable[[], Question[Any]]


class Admission:
    """The admission of one call: the breaker's permit and the limiter's decision. Settle each admission once.

    Attributes:
        key: the key that the limits counted the call by.
        permit: the breaker's permit; None without a breaker.
        decision: the limiter's decision; None without a limiter.
        settled: whether the admission was settled. Settling an admission again does nothing.
    """

    __slots__ = ("_limiter", "decision", "key", "permit", "settled")

    def __init__(self, limiter: Limiter | None, key: str, permit: Permit | None = None) -> None:
        self._limiter = limiter
        self.key = key
        self.permit = permit
        self.decision: Decision | None = None
        self.settled = False

    def run(self, function: Callable[..., R], *args: Any) -> R:
        """Call ``function`` as :meth:`Permit.run` does, and return the result."""
        return function(*args) if self.permit is None else self.permit.run(function, *args)

    def record(self, error: BaseException | None) -> float:
        """Settle the admission of a call that raised ``error``, or that returned if ``error`` is None.

        Costs at most one round trip, which also releases the lease of a concurrency limit. The release costs one more
        if the limiter has another store. The history costs one more if the outcome changes the breaker's state.

        Returns:
            The seconds until the breaker's next probe, or 0 if the breaker is not open.
        """
        return self._settle(lambda permit: permit.record(error)) or 0.0

    async def arecord(self, error: BaseException | None) -> float:
        """Do the same as :meth:`record`, without blocking the event loop."""
        return await self._asettle(lambda permit: permit.arecord(error)) or 0.0

    def fail(self, error: BaseException) -> float:
        """Settle as a failure, even if the breaker ignores such an error. Return the same as :meth:`record`."""
        return self._settle(lambda permit: permit.failure(error)) or 0.0

    async def afail(self, error: BaseException) -> float:
        """Do the same as :meth:`fail`, without blocking the event loop."""
        return await self._asettle(lambda permit: permit.afailure(error)) or 0.0

    def record_result(self, result: object) -> None:
        """Settle the admission of a call that returned ``result``."""
        self._settle(lambda permit: permit.record_result(result))

    async def arecord_result(self, result: object) -> None:
        """Do the same as :meth:`record_result`, without blocking the event loop."""
        await self._asettle(lambda permit: permit.arecord_result(result))

    def cancel(self) -> None:
        """Settle without an outcome. Rates still count the call, and a concurrency limit releases its lease."""
        self._settle(lambda permit: permit.cancel())

    async def acancel(self) -> None:
        """Do the same as :meth:`cancel`, without blocking the event loop."""
        await self._asettle(lambda permit: permit.acancel())

    def _settle(self, settle: Callable[[Permit], R]) -> R | None:
        if self.settled:
            return None
        self.settled = True
        try:
            if self._limiter is not None:
                drive(self._release(self._limiter), self._limiter.store)
        finally:  # a signal handler may raise during the release
            answer = settle(self.permit) if self.permit is not None else None
        return answer

    async def _asettle(self, settle: Callable[[Permit], Awaitable[R]]) -> R | None:
        if self.settled:
            return None
        self.settled = True
        try:
            if self._limiter is not None:
                await adrive(self._release(self._limiter), self._limiter.store)
        finally:  # the caller may be cancelled during the release
            answer = await settle(self.permit) if self.permit is not None else None
        return answer

    def _release(self, limiter: Limiter) -> Steps[None]:
        """Release the lease of a concurrency limit, together with the permit's report if both use the same store."""
        permit, decision = self.permit, self.decision
        calls = release_calls(limiter, decision, key=self.key) if decision is not None else []
        if decision is None or not calls:
            return
        if permit is not None and permit.goes_to(limiter.store, local=decision.local):
            permit.extra_calls = calls
        else:
            yield "apply_best_effort", calls, decision.local


class Guard:
    """A breaker and a limiter that are asked as one. Either may be None."""

    def __init__(self, breaker: CircuitBreaker | None, limiter: Limiter | None) -> None:
        self.breaker = breaker
        self.limiter = limiter

    def acquire(
        self,
        *,
        key: str | None = None,
        cost: int = 1,
        lease_id: str = "",
        reservation: Decision | None = None,
        probe: bool = False,
    ) -> Admission:
        """Acquire the admission of one call, from the breaker and from all limits, or from none of them.

        Costs at most one round trip. Costs none if all answers are cached. If the breaker becomes half-open, writing
        the history costs one more.

        Args:
            key: the key that the limits count the call by; by default the limiter's key.
            cost: the number of units that the call uses of each limit.
            lease_id: the id of the call's leases, as a holder of a concurrency limit and as a probe; by default a new
                id.
            reservation: a reservation to redeem.
            probe: whether ``lease_id`` may already hold a probe's lease. If so, no cached verdict is used.

        Raises:
            CircuitBreakerError: the breaker rejected the call.
            RateLimitExceeded: a limit denied the call.
            ConfigurationError: the breaker and the limits have different stores and have to be asked together.
        """
        admission, prepared, store = self._prepare(key, cost, lease_id or new_id(), reservation, probe)
        return admission if store is None else drive(_ask(admission, prepared), store)

    async def aacquire(
        self,
        *,
        key: str | None = None,
        cost: int = 1,
        lease_id: str = "",
        reservation: Decision | None = None,
        probe: bool = False,
    ) -> Admission:
        """Do the same as :meth:`acquire`, without blocking the event loop.

        If the caller is cancelled while it waits, the admission is cancelled as soon as the store has answered.
        """
        admission, prepared, store = self._prepare(key, cost, lease_id or new_id(), reservation, probe)
        if store is None:
            return admission
        return await acquired(adrive(_ask(admission, prepared), store), Admission.acancel)

    def steps(
        self, *, key: str | None = None, cost: int = 1, lease_id: str = "", also: Question[None] | None = None
    ) -> Steps[Admission]:
        """Take the steps of :meth:`acquire`, for callers that ask several guards in one round trip.

        Args:
            key, cost, lease_id: as in :meth:`acquire`.
            also: another question of the round trip. It is not asked if no round trip is needed.
        """
        admission, prepared, store = self._prepare(key, cost, lease_id or new_id(), None, False)
        if store is None:
            return admission
        others: list[_Prepared] = [] if also is None else [lambda: also]
        return (yield from _ask(admission, [*others, *prepared]))

    def _prepare(
        self, key: str | None, cost: int, lease_id: str, reservation: Decision | None, probe: bool
    ) -> tuple[Admission, list[_Prepared], Store | None]:
        """Return an admission with its cached part, functions that prepare the questions, and the store to ask.

        If there are no questions, the store is None. Preparing a question takes the breaker's pending successes. So a
        question is prepared only when it is asked. A call that is cancelled before does not lose the successes.

        Raises:
            CircuitBreakerError: the cached verdict rejects the call.
            RateLimitExceeded: a cached denial still holds.
        """
        cache = cache_of(self.breaker) if self.breaker is not None else None
        permit = cached_permit(cache) if cache is not None and not probe else None
        limiter, store = self.limiter, None
        name = "" if limiter is None else limiter.key if key is None else key
        prepared: list[_Prepared] = []
        if limiter is not None:
            denial = limiter.known_denials.get(name, cost) if reservation is None else None
            if denial is not None:
                limiter.limits[denial.denied_by].count_denial()
                raise limit_exceeded(limiter, name, denial)
            prepared.append(partial(hit_check, limiter, name, cost, lease_id, reservation=reservation))
            store = limiter.store
        if cache is not None and permit is None:
            if store is not None and store is not cache.store:
                raise ConfigurationError(
                    f"breaker {cache.config.name!r} and the limits of {name!r} are kept in different stores: "
                    "give both the same backend, so that they can be asked in one round trip"
                )
            prepared.append(partial(AcquireQuestion, cache, lease_id))
            store = cache.store
        return Admission(limiter, name, permit), prepared, store


def _ask(admission: Admission, prepared: Sequence[_Prepared]) -> Steps[Admission]:
    """Ask the store all questions, and complete ``admission``.

    Costs one round trip, and one more for the history if the breaker becomes half-open.
    """
    questions = [prepare() for prepare in prepared]
    calls = [call for question in questions for call in question.calls]
    try:
        verdicts = yield "apply", calls
    except BackendError as error:
        yield from _decide_without_store(admission, questions, error)
        return admission
    except BaseException:  # the caller was cancelled or interrupted before the store answered
        for question in questions:
            question.on_discarded()
        raise
    allowed = all(verdict[ALLOWED] for verdict in verdicts)
    end = len(calls)
    for question in reversed(questions):  # the breaker first, so that its error is raised if the limits deny too
        start = end - len(question.calls)
        _take(admission, (yield from question.on_verdicts(verdicts[start:end], allowed=allowed)))
        end = start
    return admission


def _decide_without_store(admission: Admission, questions: Sequence[Question[Any]], error: BackendError) -> Steps[None]:
    """Complete ``admission`` without the store. If the breaker rejects the call, refund what the limits counted."""
    for i, question in enumerate(questions):
        try:
            _take(admission, (yield from question.on_unavailable(error)))
        except ResilienceError:
            for other in questions[i + 1 :]:
                other.on_discarded()
            if admission._limiter is not None and admission.decision is not None:
                yield from refund(admission._limiter, admission.key, admission.decision)
            raise


def _take(admission: Admission, taken: Permit | Decision | None) -> None:
    if isinstance(taken, Permit):
        admission.permit = taken
    elif taken is not None:
        admission.decision = taken
