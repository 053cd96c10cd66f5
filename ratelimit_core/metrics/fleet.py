"""The metrics of the state that the fleet shares, which any process can read from the store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from ..circuit_breaker import circuit_breaker_registry
from ..errors import ResilienceError
from ..fleet.usage import overview
from ..protocol.breaker import MODES, STATES
from ..store import configured
from .labels import bounded, labelling

STORE_UP = "resilience_store_up"


class Reading(NamedTuple):
    """One value of one metric, with its labels."""

    name: str
    labels: tuple[str, ...]
    value: float


GAUGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "resilience_breaker_state": (
        "Breakers of this name in this state: 0 or 1, or more for a template",
        ("breaker", "state"),
    ),
    "resilience_breaker_mode": (
        "Breakers of this name in this mode: 0 or 1, or more for a template",
        ("breaker", "mode"),
    ),
    "resilience_breaker_next_probe_timestamp_seconds": ("Time of the next probe", ("breaker",)),
    "resilience_tasks_waiting": ("Tasks that wait for the breaker", ("breaker",)),
    "resilience_limit_used_ratio": ("Used fraction of the fullest limit of this kind", ("limit", "algorithm")),
    "resilience_limits_full": ("Limits of this kind that are used up", ("limit", "algorithm")),
    STORE_UP: ("1 if the shared store answers, otherwise 0", ()),
}
"""The help text and the labels of each gauge."""


def readings() -> list[Reading]:
    """Return the present values of all gauges, or only :data:`STORE_UP` if the store is unavailable.

    Costs the round trips of :func:`~ratelimit_core.fleet.usage.overview` and ``get_fleet_status()``.
    """
    try:
        fleet = circuit_breaker_registry.get_fleet_status()
        limits, waiting = overview(configured.get_store().backend, fleet)
    except ResilienceError:
        return [Reading(STORE_UP, (), 0)]
    label_of = labelling()
    labels = bounded(label_of(name) for name in sorted(fleet.keys() | waiting.keys()))
    states: Counter[tuple[str, ...]] = Counter()
    modes: Counter[tuple[str, ...]] = Counter()
    probes: dict[tuple[str, ...], float] = {}
    for name, status in fleet.items():
        label = labels(label_of(name))
        states[label, status["state"]] += 1
        modes[label, status["mode"]] += 1
        if probe := status["next_attempt_time"]:
            probes[label,] = min(probe, probes.get((label,), probe))
    waits: Counter[tuple[str, ...]] = Counter({(labels(label_of(name)),): 0 for name in fleet})
    for name, number in waiting.items():
        waits[labels(label_of(name)),] += number
    # The label of a limit is its rate, because its key may identify a client.
    kinds = bounded(limit.limit for limit in limits)
    used: dict[tuple[str, ...], float] = {}
    full: Counter[tuple[str, ...]] = Counter()
    for limit in limits:
        kind = kinds(limit.limit), limit.algorithm
        used[kind] = max(limit.used / limit.allowance, used.get(kind, 0.0))
        full[kind] += limit.used >= limit.allowance
    found: dict[str, Mapping[tuple[str, ...], float]] = {
        "resilience_breaker_state": {(one, state): states[one, state] for (one,) in waits for state in STATES.values()},
        "resilience_breaker_mode": {(one, mode): modes[one, mode] for (one,) in waits for mode in MODES.values()},
        "resilience_breaker_next_probe_timestamp_seconds": probes,
        "resilience_tasks_waiting": waits,
        "resilience_limit_used_ratio": used,
        "resilience_limits_full": full,
        STORE_UP: {(): 1},
    }
    return [Reading(name, labels, value) for name, values in found.items() for labels, value in values.items()]
