"""Reservations: room in a limit at a time in the future, held until it is redeemed."""

from __future__ import annotations

from collections.abc import Sequence

from .._util.clock import LONGEST, SECOND, microseconds
from .._util.ids import new_id
from ..errors import BackendError, ConfigurationError
from ..policies.token_bucket import RESERVE
from ..protocol.limit import LimitVerdict
from ..store.drive import Steps
from .batch import LimitCheck, LimitSet, hit_check, key_of_call, refund_calls
from .decision import Decision
from .limit import reservation_holders


def reserve(
    limiter: LimitSet,
    max_wait: float,
    cost: int,
    key: str | None,
    not_before: float,
    lease_id: str,
    denied_by: int | None,
) -> Steps[Decision]:
    """Return the steps of :meth:`Limiter.reserve`."""
    limits = limiter.limits
    name = key_of_call(limiter, key)
    lease_id = lease_id or new_id()
    which = next((i for i, limit in enumerate(limits) if limit.reservable), None) if denied_by is None else denied_by
    if which is None or not limits[which].reservable:
        raise ConfigurationError(
            "reserve() needs a rate with algorithm='sliding_window', 'token_bucket' or 'leaky_bucket'; if denied_by is "
            "given, it should be the index of such a rate"
        )
    earliest, latest = _duration("not_before", not_before), _duration("max_wait", max_wait)
    if denied_by is None and earliest == 0:
        decision = yield from hit_check(limiter, name, cost, lease_id).ask()
        which = decision.denied_by
        if decision.allowed or decision.local or not limits[which].reservable:
            return decision
    holders = reservation_holders(limits, which)
    asked = [limits[i] for i in holders]
    calls = [limit.call(name, RESERVE, cost, lease_id, earliest, latest) for limit in asked]
    decision, waits = yield from _reserve_in(LimitCheck(limiter, asked, calls, name, cost, lease_id))
    # A window with a short period may be empty again before the reservation is due, because another window makes the
    # caller wait for longer. Then the window gives its reservation back at once, for other callers to use.
    forgotten = [limit for limit, wait in zip(asked, waits, strict=False) if wait + limit.period_us < max(waits)]
    if decision.allowed and (refunds := refund_calls(limiter, forgotten, name, decision)):
        yield "apply_best_effort", refunds, False
    return decision._replace(denied_by=holders[decision.denied_by], binding=holders[decision.binding])


def _reserve_in(check: LimitCheck) -> Steps[tuple[Decision, Sequence[int]]]:
    """Reserve in all limits of ``check`` or in none.

    Return the decision and, if the store answered, the wait of each limit in µs.
    """
    try:
        verdicts = yield "apply", check.calls
    except BackendError as error:
        return check.decide_without_store(error), ()
    return check.decide(verdicts), [LimitVerdict.of(verdict).wait for verdict in verdicts]


def redeem(limiter: LimitSet, reservation: Decision, *, key: str | None) -> Steps[Decision]:
    """Return the steps of :meth:`Limiter.redeem`."""
    if reservation.consumed:
        return reservation
    name = key_of_call(limiter, key)
    check = hit_check(limiter, name, reservation.cost, reservation.lease_id, reservation=reservation)
    return (yield from check.ask())


def _duration(option: str, seconds: float) -> int:
    if not seconds >= 0:
        raise ConfigurationError(f"{option}={seconds!r} should be seconds, 0 or more")
    return microseconds(min(seconds, LONGEST / SECOND))
