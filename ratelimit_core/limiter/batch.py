"""Ask several limits in one round trip, and combine their verdicts into one decision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from .._util.clock import SECOND
from ..config.schema import OnStoreFailure
from ..errors import BackendError, ConfigurationError, RateLimitExceeded
from ..policies import CONCURRENCY, Verdict
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
"""Makes a named tuple. The constructor of the class is slower, which matters because every check makes a tuple."""


class LimitSet(Protocol):
    """A :class:`Limiter`, reduced to the attributes that this package uses."""

    @property
    def key(self) -> str:
        """The key that calls are counted by if they name no other key."""

    @property
    def limits(self) -> Sequence[Limit]:
        """The limits."""

    @property
    def on_store_failure(self) -> OnStoreFailure:
        """What to do while the store is unavailable."""

    @property
    def known_denials(self) -> KnownDenials:
        """The denials that still hold."""

    @property
    def store(self) -> Store:
        """The store that holds the records of the limits."""


class LimitCheck(NamedTuple):
    """A question to the limits of one limiter. Its methods turn the store's answer into a decision.

    A guard asks this question together with others, see :class:`ratelimit_core.guard.Question`. A limiter asks it
    alone, with :meth:`ask`.

    Attributes:
        limits: the limits to ask, which may be only some of the limiter's.
        calls: the calls to the store, one for each of these limits.
        consumes: whether every limit of the limiter counts the call, if the call is allowed.
        redeems: whether the call redeems a reservation.
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
        """Ask the store. If the store is unavailable, decide by ``on_store_failure``. Costs one round trip.

        ``counts``: whether to count a denial, and to remember it for up to a second.
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
        """Return the decision, or None if another call of the round trip was not allowed.

        ``allowed``: whether all calls of the round trip were allowed.

        Raises:
            RateLimitExceeded: a limit is reached.
        """
        decision = self.decide(verdicts)
        if not decision.allowed:
            raise self._denied(decision)
        yield from ()  # no steps, but callers expect a generator
        return decision if allowed else None

    def on_unavailable(self, error: BackendError) -> Steps[Decision]:
        """Decide by ``on_store_failure``, because the store is unavailable.

        Raises:
            RateLimitExceeded: the call is denied.
        """
        decision = self.decide_without_store(error)
        if not decision.allowed:
            raise self._denied(decision)
        yield from ()  # no steps, but callers expect a generator
        return decision

    def on_discarded(self) -> None:
        """Do nothing: no state of this process depends on the answer."""

    def decide(self, verdicts: Sequence[Verdict], *, local: bool = False) -> Decision:
        """Combine the verdicts of the limits into one decision."""
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
        # If a limit denies, only denials count: the other verdicts include this call, which is not counted after all.
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
        """Decide by ``on_store_failure``, because the store is unavailable."""
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
        """Remember a denial by a shared store. A very long key is not remembered, because it takes much memory."""
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
    """Return the check that takes ``cost`` from every limit.

    The limits that hold ``reservation`` redeem it, unless ``cost`` is higher than the reserved cost.

    Raises:
        ConfigurationError: ``cost`` is not a whole number from 1 to the smallest limit.
    """
    limits = limiter.limits
    calls = [limit.call(key, HIT, cost, lease_id) for limit in limits]
    # If the cost is higher than the reserved cost, redeeming would allow units that no limit has counted.
    redeemed: Sequence[int] = ()
    if reservation is not None and cost <= reservation.cost:
        redeemed = reservation_holders(limits, reservation.denied_by)
        for i in redeemed:
            calls[i] = limits[i].call(key, REDEEM, cost, reservation.lease_id)
    return _new(LimitCheck, (limiter, limits, calls, key, cost, lease_id, True, bool(redeemed)))


def peek_check(limiter: LimitSet, key: str, cost: int) -> LimitCheck:
    """Return the check that asks for ``cost`` and takes nothing."""
    calls = [limit.call(key, PEEK, cost, "") for limit in limiter.limits]
    return _new(LimitCheck, (limiter, limiter.limits, calls, key, cost, "", False, False))


def refund_calls(limiter: LimitSet, limits: Sequence[Limit], key: str, decision: Decision) -> list[Call]:
    """Return the calls that give back the cost to ``limits``. Forget a known denial that may no longer hold."""
    if limits:
        limiter.known_denials.forget(key, decision.cost)
    return [limit.call(key, REFUND, decision.cost, decision.lease_id) for limit in limits]


def refund(limiter: LimitSet, key: str, decision: Decision) -> Steps[None]:
    """Give back the cost of ``decision`` to every limit that took it. Costs at most one round trip."""
    if decision.allowed:
        limits = limiter.limits
        if not decision.consumed:
            limits = [limits[i] for i in reservation_holders(limits, decision.denied_by)]
        if calls := refund_calls(limiter, limits, key, decision):
            yield "apply_best_effort", calls, decision.local


def limit_exceeded(limiter: LimitSet, key: str, decision: Decision) -> RateLimitExceeded:
    """Return the error for a denial."""
    return RateLimitExceeded(
        key,
        decision.retry_after,
        name=limiter.key,
        limit=decision.limit,
        remaining=decision.remaining,
        reset_after=decision.reset_after,
        denied_by=decision.denied_by,
        reservation_kept=decision.reservation_kept,
        until_released=limiter.limits[decision.denied_by].policy is CONCURRENCY,
    )


def key_of_call(limiter: LimitSet, key: str | None) -> str:
    """Return the key that a call is counted by: ``key``, or the limiter's key if ``key`` is None.

    Raises:
        ConfigurationError: ``key`` is not a string.
    """
    if key is None:
        return limiter.key
    if not isinstance(key, str):
        raise ConfigurationError(f"key={key!r} should be a string, as in key=str(user.pk)")
    return key
