"""A breaker and limits before one call: asked together, in one round trip, and settled together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from ._util.ids import new_ticket
from .circuit_breaker import CircuitBreaker
from .circuit_breaker.cache import BreakerState
from .circuit_breaker.permit import Permit
from .errors import BackendError, CircuitBreakerError, ConfigurationError
from .limiter import Decision, Limiter
from .limiter.batch import Question, decide
from .policies import ALLOWED
from .protocol.call import Call
from .store.drive import run

R = TypeVar("R")


class Admission:
    """Leave to make one call, from everybody who was asked. Settle it once, like a :class:`Permit`."""

    __slots__ = ("_guard", "decision", "key", "permit", "settled")

    def __init__(self, guard: Guard, key: str, permit: Permit | None, decision: Decision | None) -> None:
        self._guard = guard
        self.key = key
        self.permit = permit
        self.decision = decision
        self.settled = False

    def run(self, function: Callable[..., R], *args: Any) -> R:
        """Call ``function``, as :meth:`Permit.run` does."""
        return function(*args) if self.permit is None else self.permit.run(function, *args)

    def record(self, error: BaseException | None) -> float:
        """Settle by what the call raised; None if it answered. Returns the seconds until the next probe, or 0.

        At most one round trip, and one more if that changes the breaker's state, for the history. The place to run is
        given back along with the report.
        """
        return self.permit.record(error) if self._settling() and self.permit is not None else 0.0

    def fail(self, error: BaseException) -> float:
        """Settle as a failure, whatever the breaker is configured to expect. Returns as :meth:`record` does."""
        return self.permit.failure(error) if self._settling() and self.permit is not None else 0.0

    def record_result(self, result: object) -> None:
        """Settle by what the call returned."""
        if self._settling() and self.permit is not None:
            self.permit.record_result(result)

    def cancel(self) -> None:
        """Nothing can be said about the call."""
        if self._settling() and self.permit is not None:
            self.permit.cancel()

    def _settling(self) -> bool:
        """Have the place to run given back; False if this was settled before."""
        if self.settled:
            return False
        self.settled = True
        limiter, decision, permit = self._guard.limiter, self.decision, self.permit
        if decision is not None and limiter is not None:
            releases = limiter.releases(decision, key=self.key)
            if permit is not None and permit.goes_to(limiter.store, local=decision.local):
                permit.extra_calls = releases
            else:
                limiter.store.tell(releases, decision.local)
        return True


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
        ticket: str = "",
        slot: Decision | None = None,
        probe: bool = False,
    ) -> Admission:
        """Leave for one call: at most one round trip, none where all is known.

        Limits are asked first and the breaker's probe last; if one says no, nothing is taken of any. ``slot``
        is a reserved one, to be redeemed. ``probe``: ``ticket`` holds a probe's place already, so the breaker is
        asked whatever is known.

        Raises:
            CircuitBreakerError: the breaker refused.
            RateLimitExceeded: a limit is reached.
        """
        state = self.breaker._known if self.breaker is not None else None
        permit = state.permit_if_fresh() if state is not None and not probe else None
        ticket = ticket or new_ticket()
        limiter = self.limiter
        if limiter is None:
            if permit is None and state is not None:
                permit = run(state.asking_anew(ticket), state.store)
            return Admission(self, "", permit, None)
        name = limiter.key if key is None else key
        if slot is None:
            known = limiter.known_denial(name, cost)
            if known is not None:
                raise limiter.refusal(limiter.denied(known), name)
            question = limiter.calls(name, cost, ticket)
        else:
            question = limiter.calls(name, cost, ticket, slot=slot)
        if state is None or permit is not None:
            return self._ask(limiter, name, question, None, None, permit)
        if state.store is not limiter.store:
            raise ConfigurationError(
                f"breaker {state.config.name!r} and the limits of {limiter.key!r} are kept in different stores "
                "and can't be asked as one: give both the same backend"
            )
        return self._ask(limiter, name, question, state, state.ask_call(ticket), None)

    def _ask(
        self,
        limiter: Limiter,
        name: str,
        question: Question,
        state: BreakerState | None,
        ask: Call | None,
        permit: Permit | None,
    ) -> Admission:
        limits = question.calls
        try:
            verdicts = limiter.store.apply([*limits, ask] if ask is not None else limits)
        except BackendError as error:
            if ask is not None and state is not None:
                state.put_back(ask)
            decision = limiter.without_store(question, error)
            if decision.allowed and ask is not None and state is not None:
                try:
                    permit = run(state.asking_without_store(ask.ticket, error), state.store)
                except CircuitBreakerError:
                    limiter.refund(decision, key=name)
                    raise
        else:
            decision = decide(question, verdicts[: len(limits)], local=False)
            if ask is not None and state is not None:
                if decision.allowed or not verdicts[-1][ALLOWED]:
                    permit = run(state.answering(ask, verdicts[-1]), state.store)
                else:
                    state.observed(ask, verdicts[-1])
        if not decision.allowed:
            if not question.redeems:
                limiter.noted(name, decision)
            raise limiter.refusal(limiter.denied(decision), name)
        return Admission(self, name, permit, decision)


__all__ = ["Admission", "Guard"]
