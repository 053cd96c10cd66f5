"""Read the limits that are in use, and the number of tasks that wait for each breaker."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .._util.clock import SECOND
from ..backends.base import Backend
from ..limiter.limit import Limit
from ..policies import CONCURRENCY, COUNTER, LIMITS, TOKEN_BUCKET, Policy
from ..policies.token_bucket import PEEK
from ..protocol.call import Call, Key
from ..protocol.internal_keys import is_bookkeeping, turns_of
from ..protocol.limit import LimitVerdict

_TURNS = turns_of("")
_AT_A_TIME = 500
MOST = 200
"""The maximum number of limits of each algorithm that are read, because each of a million clients may have a limit."""


class LimitInUse(NamedTuple):
    """A limit and its present use.

    Attributes:
        key: the key that the limit counts calls by.
        limit: the limit as it is written: ``10/s``, ``10/s burst 20``, or the number of concurrent runs.
        algorithm: the policy's name; ``concurrency`` for concurrent runs.
        allowance: the number of units that the limit allows.
        used: the number of units that are used now.
        retry_after: seconds until one more call is allowed; 0 if a call is allowed now.
        reset_after: seconds until no unit counts as used; 0 for concurrent runs.
    """

    key: str
    limit: str
    algorithm: str
    allowance: int
    used: int
    retry_after: float
    reset_after: float


class Overview(NamedTuple):
    """The limits in use, fullest first, and the number of tasks that wait for each breaker."""

    limits: list[LimitInUse]
    waiting: dict[str, int]


def overview(
    backend: Backend, breakers: Mapping[str, Mapping[str, Any]], most: int = MOST, *, now: float | None = None
) -> Overview:
    """Return the limits in use that ``backend`` lists, and the number of waiting tasks.

    The internal limits of :mod:`~ratelimit_core.protocol.internal_keys` are left out. Each task that waits for a
    breaker has reserved a time to resume after the next probe. So the number of tasks follows from the time that all
    reservations take up. Costs a round trip for each algorithm, and one for every 500 limits.

    Args:
        backend: the store to read.
        breakers: the result of ``circuit_breaker_registry.get_fleet_status()``.
        most: the maximum number of limits of each algorithm that are read.
        now: the present time in seconds since the epoch, by default this machine's.

    Raises:
        BackendError: the store is unavailable.
        CircuitBreakerError: the store was unavailable recently, so it was not asked.
    """
    listed = _listed(backend, LIMITS, most)
    known = [(limit, name) for policy, (name, text) in listed if (limit := Limit.of_key(policy, text)) is not None]
    calls = [limit.call(name, PEEK, 1, "") for limit, name in known]
    verdicts = _peek(backend, calls)
    limits: list[LimitInUse] = []
    waiting: dict[str, int] = {}
    now = time.time() if now is None else now
    for (limit, name), call, verdict in zip(known, calls, verdicts, strict=True):
        used = limit.allowance - verdict.remaining
        reset = verdict.reset_after / SECOND
        if limit.policy is TOKEN_BUCKET and name.startswith(_TURNS):
            breaker = name.removeprefix(_TURNS)
            probe = breakers.get(breaker, {}).get("next_attempt_time") or 0.0
            waiting[breaker] = round(max(0.0, reset - max(0.0, probe - now)) / (limit.spacing_us / SECOND))
        elif used > 0 and not is_bookkeeping(limit.policy, name, call.key[1]):
            places = limit.policy is CONCURRENCY
            wait = verdict.wait / SECOND
            limits.append(
                LimitInUse(name, call.key[1], limit.policy.name, limit.allowance, used, wait, 0.0 if places else reset)
            )
    limits.sort(key=lambda each: (-each.used / each.allowance, each.key, each.limit))
    return Overview(limits, {name: number for name, number in waiting.items() if number})


def limits_in_use(backend: Backend) -> list[tuple[str, str, str]]:
    """Return the key, the limit as it is written, and the algorithm of every limit that ``backend`` lists.

    The limiters and counters of :mod:`~ratelimit_core.protocol.internal_keys` are left out.

    Costs a round trip for each algorithm.

    Raises:
        ResilienceError: the store is unavailable.
    """
    listed = _listed(backend, (*LIMITS, COUNTER), None)
    return sorted(
        (key, limit, policy.name) for policy, (key, limit) in listed if not is_bookkeeping(policy, key, limit)
    )


def _listed(backend: Backend, policies: Sequence[Policy], most: int | None) -> list[tuple[Policy, Key]]:
    return [(policy, key) for policy in policies for key in backend.keys(policy, most)]


def _peek(backend: Backend, calls: Sequence[Call]) -> list[LimitVerdict]:
    batches = (calls[i : i + _AT_A_TIME] for i in range(0, len(calls), _AT_A_TIME))
    return [LimitVerdict.of(verdict) for batch in batches for verdict in backend.apply(batch)]
