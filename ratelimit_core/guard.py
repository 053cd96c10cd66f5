"""A guard asks a breaker and limits as one, before one call, and settles them together after it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

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
from .policies import ALLOWED, Verdict
from .protocol.call import Call
from .store.drive import Steps, adrive, drive
from .store.fallback import Store

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

__all__ = ["Admission", "Guard"]


class Question(Protocol[R_co]):
    """One of the questions that a guard asks the store in one round trip, and how its answer is read."""

    @property
    def calls(self) -> Sequence[Call]:
        """The calls that ask it."""

    def on_verdicts(self, verdicts: Sequence[Verdict], *, allowed: bool) -> Steps[R_co | None]:
        """Read the verdicts; return what was acquired, or None if only another question was refused.

        ``allowed`` if all calls of the round trip were allowed.

        Raises:
            ResilienceError: refused.
        """

    def on_unavailable(self, error: BackendError) -> Steps[R_co]:
        """Return what is acquired while the store is unavailable.

        Raises:
            ResilienceError: refused.
        """

    def on_discarded(self) -> None:
        """Take back what was prepared: the question was not asked, or the call ended while it waited."""


_Prepared = Callable[[], Question[Permit | Decision]]


class Admission:
    """The admission of one call: the breaker's permit and the limiter's decision. Settle it once.

    Attributes:
        key: what the limits counted the call by.
        permit: the breaker's permit; None without a breaker.
        decision: the limiter's decision; None without a limiter.
        settled: whether it was settled. A second settling is ignored.
    """

    __slots__ = ("_limiter", "decision", "key", "permit", "settled")

    def __init__(self, limiter: Limiter | None, key: str, permit: Permit | None = None) -> None:
        self._limiter = limiter
        self.key = key
        self.permit = permit
        self.decision: Decision | None = None
        self.settled = False

    def run(self, function: Callable[..., R], *args: Any) -> R:
        """Call ``function``, as :meth:`Permit.run` does."""
        return function(*args) if self.permit is None else self.permit.run(function, *args)

    def record(self, error: BaseException | None) -> float:
        """Settle by what the call raised; None if it returned. Return the seconds until the next probe, or 0.

        At most one round trip, and one more for the history if that changes the breaker's state. The concurrency slot
        is released in the round trip that reports the outcome.
        """
        return self._settle(lambda permit: permit.record(error)) or 0.0

    async def arecord(self, error: BaseException | None) -> float:
        """:meth:`record` without blocking the event loop."""
        return await self._asettle(lambda permit: permit.arecord(error)) or 0.0

    def fail(self, error: BaseException) -> float:
        """Settle as a failure, whatever the breaker is configured to expect. Return as :meth:`record` does."""
        return self._settle(lambda permit: permit.failure(error)) or 0.0

    async def afail(self, error: BaseException) -> float:
        """:meth:`fail` without blocking the event loop."""
        return await self._asettle(lambda permit: permit.afailure(error)) or 0.0

    def record_result(self, result: object) -> None:
        """Settle by what the call returned."""
        self._settle(lambda permit: permit.record_result(result))

    async def arecord_result(self, result: object) -> None:
        """:meth:`record_result` without blocking the event loop."""
        await self._asettle(lambda permit: permit.arecord_result(result))

    def cancel(self) -> None:
        """Settle without an outcome."""
        self._settle(lambda permit: permit.cancel())

    async def acancel(self) -> None:
        """:meth:`cancel` without blocking the event loop."""
        await self._asettle(lambda permit: permit.acancel())

    def _settle(self, settle: Callable[[Permit], R]) -> R | None:
        if self.settled:
            return None
        self.settled = True
        try:
            if self._limiter is not None:
                drive(self._release(self._limiter), self._limiter.store)
        finally:  # even if a signal handler raises meanwhile
            answer = settle(self.permit) if self.permit is not None else None
        return answer

    async def _asettle(self, settle: Callable[[Permit], Awaitable[R]]) -> R | None:
        if self.settled:
            return None
        self.settled = True
        try:
            if self._limiter is not None:
                await adrive(self._release(self._limiter), self._limiter.store)
        finally:  # even if the caller is cancelled meanwhile
            answer = await settle(self.permit) if self.permit is not None else None
        return answer

    def _release(self, limiter: Limiter) -> Steps[None]:
        """Release the concurrency slot: along with the permit's report if both go to the same store."""
        permit, decision = self.permit, self.decision
        calls = release_calls(limiter, decision, key=self.key) if decision is not None else []
        if decision is None or not calls:
            return
        if permit is not None and permit.goes_to(limiter.store, local=decision.local):
            permit.extra_calls = calls
        else:
            yield "apply_best_effort", calls, decision.local


class Guard:
    """Asks a breaker and a limiter as one. Either may be None."""

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
        """Acquire the admission of one call. At most one round trip, and none if everything is known.

        The limits are asked first and the breaker's probe last; if one refuses, nothing is taken of any.

        Args:
            key: what the limits count by; by default the limiter's key.
            cost: how much of each limit.
            lease_id: names the concurrency slot and the probe that the call may hold.
            reservation: a reservation, to be redeemed.
            probe: ``lease_id`` holds a probe already, so the breaker is asked whatever is known.

        Raises:
            CircuitBreakerError: the breaker refused.
            RateLimitExceeded: a limit is reached.
            ConfigurationError: the breaker and the limits are kept in different stores.
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
        """:meth:`acquire` without blocking the event loop. Cancelled meanwhile, it cancels the admission."""
        admission, prepared, store = self._prepare(key, cost, lease_id or new_id(), reservation, probe)
        if store is None:
            return admission
        return await acquired(adrive(_ask(admission, prepared), store), Admission.acancel)

    def _prepare(
        self, key: str | None, cost: int, lease_id: str, reservation: Decision | None, probe: bool
    ) -> tuple[Admission, list[_Prepared], Store | None]:
        """Return the admission as far as it is known, and what prepares the questions that complete it.

        A question is prepared when it is asked: it takes pending successes along, which a call that is cancelled before
        that must not lose.

        Raises:
            CircuitBreakerError: the breaker is known to refuse.
            RateLimitExceeded: a denial is known.
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
                    f"breaker {cache.config.name!r} and the limits of {name!r} are kept in different stores "
                    "and can't be asked as one: give both the same backend"
                )
            prepared.append(partial(AcquireQuestion, cache, lease_id))
            store = cache.store
        return Admission(limiter, name, permit), prepared, store


def _ask(admission: Admission, prepared: Sequence[_Prepared]) -> Steps[Admission]:
    """Complete ``admission``. One round trip."""
    questions = [prepare() for prepare in prepared]
    calls = [call for question in questions for call in question.calls]
    try:
        verdicts = yield "apply", calls
    except BackendError as error:
        yield from _decide_without_store(admission, questions, error)
        return admission
    except BaseException:  # the call ended while it waited
        for question in questions:
            question.on_discarded()
        raise
    allowed = all(verdict[ALLOWED] for verdict in verdicts)
    end = len(calls)
    for question in reversed(questions):  # where both refuse, the breaker's refusal is raised
        start = end - len(question.calls)
        _take(admission, (yield from question.on_verdicts(verdicts[start:end], allowed=allowed)))
        end = start
    return admission


def _decide_without_store(
    admission: Admission, questions: Sequence[Question[Permit | Decision]], error: BackendError
) -> Steps[None]:
    """Complete ``admission`` while the store is unavailable. If one refuses, give back what another has taken."""
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
