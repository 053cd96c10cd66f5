"""Which limits are in use, and how many tasks wait for each breaker."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .._util.clock import SECOND
from ..backends.base import Backend
from ..limiter.limit import Limit
from ..policies import ANSWER, CONCURRENCY, COUNTER, LIMITS, OTHER_ANSWER, TOKEN_BUCKET, WAIT, Policy
from ..policies.token_bucket import PEEK
from ..protocol.call import Call, Key
from ..protocol.internal_keys import is_bookkeeping, turns_of

_TURNS = turns_of("")
_AT_A_TIME = 500
MOST = 200
"""So many limits of each algorithm are looked at: there may be one for each of a million clients."""


class LimitInUse(NamedTuple):
    """What is used of a limit now.

    Attributes:
        key: what is limited.
        limit: as it is written: ``10/s``, ``10/s burst 20``, or of places to run their number.
        algorithm: the policy's name; ``concurrency`` for places to run.
        allowance, used: how many there are, and how many of them are taken.
        retry_after: seconds until one more is allowed; 0 if it is now.
        reset_after: seconds until all are back; of places to run, 0.
    """

    key: str
    limit: str
    algorithm: str
    allowance: int
    used: int
    retry_after: float
    reset_after: float


class Overview(NamedTuple):
    """What :func:`overview` found: the fullest limits first, and by the breaker's name how many tasks wait for it."""

    limits: list[LimitInUse]
    waiting: dict[str, int]


def overview(
    backend: Backend, breakers: Mapping[str, Mapping[str, Any]], most: int = MOST, *, now: float | None = None
) -> Overview:
    """The limits that ``backend`` lists, at most ``most`` of each algorithm, and who waits for ``breakers``.

    Those of :mod:`~ratelimit_core.protocol.internal_keys` are no limits here.

    ``breakers`` is what ``circuit_breaker_registry.get_fleet_status()`` says. Who waits for a breaker has a turn to
    come back after its next probe; turns are counted by the time that they take. A round trip for each algorithm, and
    one for every 500 limits.

    Raises:
        BackendError: the store is away.
        CircuitBreakerError: it has been for a while.
    """
    listed = _listed(backend, LIMITS, most)
    known = [(limit, name) for policy, (name, text) in listed if (limit := Limit.of_key(policy, text)) is not None]
    calls = [limit.call(name, PEEK, 1, "") for limit, name in known]
    verdicts = _looked(backend, calls)
    limits: list[LimitInUse] = []
    waiting: dict[str, int] = {}
    now = time.time() if now is None else now
    for (limit, name), call, verdict in zip(known, calls, verdicts, strict=True):
        used = limit.allowance - verdict[ANSWER]
        reset = verdict[OTHER_ANSWER] / SECOND
        if limit.policy is TOKEN_BUCKET and name.startswith(_TURNS):
            breaker = name.removeprefix(_TURNS)
            probe = breakers.get(breaker, {}).get("next_attempt_time") or 0.0
            waiting[breaker] = round(max(0.0, reset - max(0.0, probe - now)) / (limit.spacing_us / SECOND))
        elif used > 0 and not is_bookkeeping(limit.policy, name, call.key[1]):
            places = limit.policy is CONCURRENCY
            wait = verdict[WAIT] / SECOND
            limits.append(
                LimitInUse(name, call.key[1], limit.policy.name, limit.allowance, used, wait, 0.0 if places else reset)
            )
    limits.sort(key=lambda each: (-each.used / each.allowance, each.key, each.limit))
    return Overview(limits, {name: number for name, number in waiting.items() if number})


def limits_in_use(backend: Backend) -> list[tuple[str, str, str]]:
    """Return the key, the limit as it is written, and the algorithm of every limit that ``backend`` lists.

    Those of :mod:`~ratelimit_core.protocol.internal_keys` are left out. A round trip for each algorithm.

    Raises:
        ResilienceError: the store is unavailable.
    """
    listed = _listed(backend, (*LIMITS, COUNTER), None)
    return sorted(
        (key, limit, policy.name) for policy, (key, limit) in listed if not is_bookkeeping(policy, key, limit)
    )


def _listed(backend: Backend, policies: Sequence[Policy], most: int | None) -> list[tuple[Policy, Key]]:
    return [(policy, key) for policy in policies for key in backend.keys(policy, most)]


def _looked(backend: Backend, calls: Sequence[Call]) -> list[tuple[int, ...]]:
    return [verdict for i in range(0, len(calls), _AT_A_TIME) for verdict in backend.apply(calls[i : i + _AT_A_TIME])]
