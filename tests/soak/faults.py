"""What happens when: a plan that a seed decides."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple


class Fault(NamedTuple):
    at: float
    """Seconds since the beginning."""
    kind: str
    """As :class:`tests.soak.stage.Stage` has a method for it."""
    lasts: float


class Kinds(NamedTuple):
    """Faults of which there is one at a time."""

    kinds: tuple[str, ...]
    pause: tuple[float, float]
    lasts: tuple[float, float]


UPSTREAM = Kinds(("upstream_down", "upstream_slow", "upstream_failing"), pause=(2, 6), lasts=(1, 5))
STORE = Kinds(("store_hangs", "store_killed"), pause=(3, 8), lasts=(0.2, 4))
WORKERS = Kinds(("child_killed", "worker_killed", "worker_replaced"), pause=(2, 7), lasts=(0, 0))


def plan(seed: int, seconds: float) -> list[Fault]:
    """The faults of so many seconds, in order; each kind comes as often as the others that exclude it."""
    chance = random.Random(seed)
    return sorted(fault for group in (UPSTREAM, STORE, WORKERS) for fault in _one_at_a_time(group, seconds, chance))


def _one_at_a_time(group: Kinds, seconds: float, chance: random.Random) -> Iterator[Fault]:
    at, left = 0.0, list[str]()
    while True:
        left = left or chance.sample(group.kinds, len(group.kinds))
        at += chance.uniform(*group.pause)
        fault = Fault(at, left.pop(), chance.uniform(*group.lasts))
        at += fault.lasts
        if at > seconds:
            return
        yield fault
