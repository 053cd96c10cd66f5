"""Several limits, asked as one and answered by one decision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from .._util.clock import SECOND
from ..config.schema import OnStoreFailure
from ..errors import BackendError, ConfigurationError, RateLimitExceeded
from ..policies import Verdict
from ..policies.token_bucket import HIT, PEEK, REDEEM, REFUND
from ..protocol.call import Call
from ..protocol.limit import ALLOWED, LEASE_ENDS, REMAINING, RESET_AFTER, WAIT
from ..protocol.names import MAX_KEY
from ..store.drive import Steps
from ..store.fallback import Store
from .decision import Decision
from .denials import KnownDenials
from .limit import Limit, reservation_holders

_new = tuple.__new__
"""Makes a named tuple without the function that names its fields: it is on the path of every check."""


class LimitSet(Protocol):
    """The limits that are asked as one, and what is known of them: a :class:`Limiter`, as this package sees it."""

    @property
    def key(self) -> str:
        """The key of calls that name no other."""

    @property
    def limits(self) -> Sequence[Limit]:
        """The limits."""

    @property
    def on_store_failure(self) -> OnStoreFailure:
        """What is decided while the store is unavailable."""

    @property
    def known_denials(self) -> KnownDenials:
        """The denials that still hold."""

    @property
    def store(self) -> Store:
        """The store that is asked."""


class LimitCheck(NamedTuple):
    """A question to the limits of one limiter, and how its answer is read.

    A guard asks it together with others, see :class:`ratelimit_core.guard.Question`. A limiter asks it alone, by
    :meth:`ask`.

    Attributes:
        limits: those that are asked; not always all of the limiter.
        calls: one for each of them.
        consumes: every limit of the limiter counts the call, if it is allowed.
        redeems: a reservation is redeemed.
    """

    limiter: LimitSet
    limits: Sequence[Limit]
    calls: Sequence[Call]
    key: str
    cost: int
    lease_id: str = ""
    consumes: bool = False
    redeems: bool = False

    def ask(self, *, counts: bool = False) -> Steps[Decision]:
        """Ask the store, or decide without it by ``on_store_failure``. One round trip.

        ``counts``: a denial is counted, and remembered as long as it holds.
        """
        try:
            verdicts = yield "apply", self.calls
        except BackendError as error:
            decision = self.decide_without_store(error)
        else:
            decision = self.decide(verdicts)
        if counts and not decision.allowed:
            self.remember(decision)
            self.limits[decision.denied_by].count_denial()
        return decision

    def on_verdicts(self, verdicts: Sequence[Verdict], *, allowed: bool) -> Steps[Decision | None]:
        """Read the store's answer; ``allowed`` if everything that was asked with it was allowed as well.

        Raises:
            RateLimitExceeded: a limit is reached.
        """
        decision = self.decide(verdicts)
        if not decision.allowed:
            raise self._denied(decision)
        yield from ()  # it asks nothing more
        return decision if allowed else None

    def on_unavailable(self, error: BackendError) -> Steps[Decision]:
        """Decide while the store is unavailable, by ``on_store_failure``.

        Raises:
            RateLimitExceeded: denied.
        """
        decision = self.decide_without_store(error)
        if not decision.allowed:
            raise self._denied(decision)
        yield from ()  # it asks nothing more
        return decision

    def on_discarded(self) -> None:
        """Do nothing: no state of this process depends on the answer."""

    def decide(self, verdicts: Sequence[Verdict], *, local: bool = False) -> Decision:
        """Put the verdicts together."""
        _, limits, _, _, cost, lease_id, consumes, _ = self
        if len(limits) == 1:
            verdict, limit = verdicts[0], limits[0]
            allowed = verdict[ALLOWED] == 1
            kept = not allowed and limit.reservable and verdict[LEASE_ENDS] > 0
            left, reset, retry = verdict[REMAINING], verdict[RESET_AFTER] / SECOND, verdict[WAIT] / SECOND
            end = cost, kept, allowed and consumes, local
            return _new(Decision, (allowed, limit.allowance, left, reset, retry, lease_id, 0, 0, *end))
        remaining = [verdict[REMAINING] for verdict in verdicts]
        resets = [verdict[RESET_AFTER] for verdict in verdicts]
        waits = [verdict[WAIT] for verdict in verdicts]
        denials = [i for i, verdict in enumerate(verdicts) if not verdict[ALLOWED]]
        # If one denied, the others have no say: they answered as if they had counted a call that now counts nowhere.
        deciding = denials or range(len(verdicts))
        binding = min(deciding, key=lambda i: (remaining[i], -waits[i], -resets[i]))
        denied_by = max(deciding, key=waits.__getitem__)
        kept = bool(denials) and limits[denied_by].reservable and verdicts[denied_by][LEASE_ENDS] > 0
        return Decision(
            allowed=not denials,
            limit=limits[binding].allowance,
            remaining=remaining[binding],
            reset_after=max(resets) / SECOND,
            retry_after=waits[denied_by] / SECOND,
            lease_id=lease_id,
            binding=binding,
            denied_by=denied_by,
            cost=cost,
            reservation_kept=kept,
            consumed=not denials and consumes,
            local=local,
        )

    def decide_without_store(self, error: BackendError) -> Decision:
        """Decide by ``on_store_failure``."""
        limiter = self.limiter
        if limiter.on_store_failure == "local":
            return self.decide(limiter.store.local.apply(self.calls), local=True)
        allowed = limiter.on_store_failure == "allow"
        wait = 0.0 if allowed else error.retry_after or 0.0
        return Decision(
            allowed,
            self.limits[0].allowance,
            0,
            wait,
            wait,
            lease_id=self.lease_id,
            cost=self.cost,
            reservation_kept=self.redeems and not allowed,
            consumed=self.consumes and allowed,
            local=True,
        )

    def remember(self, decision: Decision) -> None:
        """Remember a denial, if it is of a shared store. Long keys would take much memory: they are asked again."""
        if not decision.allowed and not decision.local and len(self.key) <= MAX_KEY and self.limiter.store.shared:
            self.limiter.known_denials.remember(self.key, decision)

    def _denied(self, decision: Decision) -> RateLimitExceeded:
        if not self.redeems:
            self.remember(decision)
        self.limits[decision.denied_by].count_denial()
        return limit_exceeded(self.limiter, self.key, decision)


def hit_check(
    limiter: LimitSet, key: str, cost: int, lease_id: str, *, reservation: Decision | None = None
) -> LimitCheck:
    """Return the check that takes ``cost`` of every limit.

    The limits in which ``reservation`` is held take it by that reservation.

    Raises:
        ConfigurationError: the cost is above a limit.
    """
    limits = limiter.limits
    calls = [limit.call(key, HIT, cost, lease_id) for limit in limits]
    # A higher cost than was reserved would let calls through that no limit has counted.
    redeemed: Sequence[int] = ()
    if reservation is not None and cost <= reservation.cost:
        redeemed = reservation_holders(limits, reservation.denied_by)
        for i in redeemed:
            calls[i] = limits[i].call(key, REDEEM, cost, reservation.lease_id)
    return _new(LimitCheck, (limiter, limits, calls, key, cost, lease_id, True, bool(redeemed)))


def peek_check(limiter: LimitSet, key: str, cost: int) -> LimitCheck:
    """Return the check that takes nothing."""
    calls = [limit.call(key, PEEK, cost, "") for limit in limiter.limits]
    return _new(LimitCheck, (limiter, limiter.limits, calls, key, cost, "", False, False))


def refund_calls(limiter: LimitSet, limits: Sequence[Limit], key: str, decision: Decision) -> list[Call]:
    """Return the calls that give back what ``limits`` took; a denial that is known of them may not hold any more."""
    if limits:
        limiter.known_denials.forget(key, decision.cost)
    return [limit.call(key, REFUND, decision.cost, decision.lease_id) for limit in limits]


def refund(limiter: LimitSet, key: str, decision: Decision) -> Steps[None]:
    """Give back what ``decision`` took of every limit. One round trip."""
    if decision.allowed:
        limits = limiter.limits
        if not decision.consumed:
            limits = [limits[i] for i in reservation_holders(limits, decision.denied_by)]
        if calls := refund_calls(limiter, limits, key, decision):
            yield "apply_best_effort", calls, decision.local


def limit_exceeded(limiter: LimitSet, key: str, decision: Decision) -> RateLimitExceeded:
    """Return the error that says what ``decision`` says."""
    return RateLimitExceeded(
        key,
        decision.retry_after,
        name=limiter.key,
        limit=decision.limit,
        remaining=decision.remaining,
        reset_after=decision.reset_after,
        denied_by=decision.denied_by,
        reservation_kept=decision.reservation_kept,
    )


def key_of_call(limiter: LimitSet, key: str | None) -> str:
    """Return the key that a call is counted by.

    Raises:
        ConfigurationError: the key is not a string.
    """
    if key is None:
        return limiter.key
    if not isinstance(key, str):
        raise ConfigurationError(f"key={key!r} should be a string, as in key=str(user.pk)")
    return key
