"""Measure contenders in turns: the CPU time and the wall time of one call.

Short batches of all contenders alternate, so that other load on the machine affects all contenders alike. Differences
and ratios are computed for each round, from two batches that are a few milliseconds apart.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from typing import Literal, Self

Call = Callable[[], object]
Role = Literal["floor", "peer", "ours"]

MICRO = 1_000_000


@dataclass(frozen=True, slots=True)
class Pace:
    """The extent of a measurement: the number of rounds, and the seconds of a batch."""

    rounds: int
    batch: float
    quick: bool


QUICK = Pace(rounds=15, batch=0.008, quick=True)
FULL = Pace(rounds=101, batch=0.02, quick=False)


@dataclass(frozen=True, slots=True)
class Contender:
    """A call to measure. A floor is the cheapest possible call, with which the others are compared."""

    name: str
    call: Call
    role: Role = "peer"


@dataclass(frozen=True, slots=True)
class Spread:
    """The median and the quartiles of the measured values."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        numbers = list(values)
        if len(numbers) == 1:
            numbers *= 2
        low, median, high = statistics.quantiles(numbers, n=4, method="inclusive")
        return cls(median, low, high)


@dataclass(frozen=True, slots=True)
class Samples:
    """The time of a call in µs, one number for each round."""

    cpu: Sequence[float]
    wall: Sequence[float]

    def added_to(self, other: Samples) -> Spread:
        """Return the CPU time in µs beyond that of ``other``."""
        return Spread.of(mine - theirs for mine, theirs in zip(self.cpu, other.cpu, strict=True))

    def ratio_to(self, other: Samples) -> Spread:
        """Return the CPU time as a multiple of that of ``other``."""
        return Spread.of(mine / theirs for mine, theirs in zip(self.cpu, other.cpu, strict=True))


def take_turns(contenders: Sequence[Contender], pace: Pace) -> dict[str, Samples]:
    """Measure the contenders in turns, and return the samples by name.

    Every second round runs backwards, so that no contender always follows the same one.
    """
    times = {each.name: _fitting(each.call, pace.batch) for each in contenders}
    batches: dict[str, list[tuple[float, float]]] = {each.name: [] for each in contenders}
    for number in range(pace.rounds):
        for each in contenders if number % 2 else reversed(contenders):
            batches[each.name].append(_batch(each.call, times[each.name]))
    return {
        name: Samples(cpu=[cpu for cpu, _ in measured], wall=[wall for _, wall in measured])
        for name, measured in batches.items()
    }


def _batch(call: Call, times: int) -> tuple[float, float]:
    """Return the CPU time of a call in µs, in all threads of this process, and the wall time in µs."""
    with _no_collection():
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in repeat(None, times):
            call()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return cpu / times * MICRO, wall / times * MICRO


@contextmanager
def _no_collection() -> Iterator[None]:
    """Collect garbage first, so that the measured contender does not pay for the garbage of others."""
    gc.collect(0)
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _fitting(call: Call, seconds: float) -> int:
    """Return how many calls take ``seconds``. The trial also warms up."""
    call()  # the first call connects
    times = 1
    while True:
        _, took = _batch(call, times)
        if took * times >= seconds * MICRO / 2:
            return max(1, round(seconds * MICRO / took))
        times *= 2
