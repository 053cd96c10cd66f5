"""Concurrency slots: leases that end by themselves if their holder dies.

Callers that know the id of a lease can acquire, renew and release the lease here, even if another process holds it.
Callers that have a decision use :meth:`Limiter.release`.
"""

from __future__ import annotations

from ..errors import ConfigurationError
from ..policies import CONCURRENCY
from ..policies.concurrency import REFUND, RENEW
from ..protocol.call import Call
from ..store.drive import Steps, drive
from .batch import LimitSet, hit_check, key_of_call, refund_calls
from .decision import Decision


def acquire_lease(limiter: LimitSet, lease_id: str, *, key: str | None = None) -> Decision:
    """Acquire or renew the lease ``lease_id``. Costs one round trip.

    Raises:
        ConfigurationError: the limiter has a rate, or no concurrency.
    """
    if [limit.policy for limit in limiter.limits] != [CONCURRENCY]:
        raise ConfigurationError(
            "acquire_lease() needs a limiter with a concurrency and no rate, as in Limiter(key=..., concurrency=1)"
        )
    return drive(hit_check(limiter, key_of_call(limiter, key), 1, lease_id).ask(), limiter.store)


def renew_lease(limiter: LimitSet, lease_id: str, *, key: str | None = None) -> None:
    """Renew the lease ``lease_id`` if it has not ended. Costs one round trip; none without a concurrency limit."""
    limiter.store.apply_best_effort(_lease_calls(limiter, RENEW, lease_id, key), False)


def release_lease(limiter: LimitSet, lease_id: str, *, key: str | None = None) -> None:
    """Release the lease ``lease_id``. Costs one round trip; none without a concurrency limit."""
    limiter.store.apply_best_effort(release_lease_calls(limiter, lease_id, key=key), False)


def release_lease_calls(limiter: LimitSet, lease_id: str, *, key: str | None = None) -> list[Call]:
    """Return the calls that :func:`release_lease` makes, for a caller that sends them with other calls."""
    return _lease_calls(limiter, REFUND, lease_id, key)


def release_calls(limiter: LimitSet, decision: Decision, *, key: str | None = None) -> list[Call]:
    """Return the calls that release the slot of ``decision``: none if it is denied or has no slot."""
    if not decision.allowed:
        return []
    limits = [limit for limit in limiter.limits if limit.policy is CONCURRENCY]
    return refund_calls(limiter, limits, key_of_call(limiter, key), decision)


def release(limiter: LimitSet, decision: Decision, *, key: str | None = None) -> Steps[None]:
    """Return the steps of :meth:`Limiter.release`."""
    if calls := release_calls(limiter, decision, key=key):
        yield "apply_best_effort", calls, decision.local


def _lease_calls(limiter: LimitSet, op: int, lease_id: str, key: str | None) -> list[Call]:
    name = key_of_call(limiter, key)
    return [limit.call(name, op, 1, lease_id) for limit in limiter.limits if limit.policy is CONCURRENCY]
