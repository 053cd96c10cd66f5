"""Contenders take turns: what one call of each costs, in CPU time and by the clock on the wall.

Short batches of all contenders alternate, so that whatever else the machine does meets them all alike, and what is
compared is compared round by round: a difference or a ratio is that of two batches a few milliseconds apart.
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
    """How long to measure: rounds, and the seconds that a batch takes."""

    rounds: int
    batch: float
    quick: bool


QUICK = Pace(rounds=15, batch=0.008, quick=True)
FULL = Pace(rounds=101, batch=0.02, quick=False)


@dataclass(frozen=True, slots=True)
class Contender:
    """Something whose call is measured. A floor is the least that could be done, with which the others compare."""

    name: str
    call: Call
    role: Role = "peer"


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of what was measured, and its quartiles."""

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
    """Microseconds a call, one number for each round."""

    cpu: Sequence[float]
    wall: Sequence[float]

    def added_to(self, other: Samples) -> Spread:
        """How much more CPU than ``other``."""
        return Spread.of(mine - theirs for mine, theirs in zip(self.cpu, other.cpu, strict=True))

    def ratio_to(self, other: Samples) -> Spread:
        """How many times the CPU of ``other``."""
        return Spread.of(mine / theirs for mine, theirs in zip(self.cpu, other.cpu, strict=True))


def take_turns(contenders: Sequence[Contender], pace: Pace) -> dict[str, Samples]:
    """Measure them in turns, by name. Every second round goes backwards, so nobody always follows the same one."""
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
    """Microseconds a call: of CPU in all threads of this process, and on the wall."""
    with _no_collection():
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in repeat(None, times):
            call()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return cpu / times * MICRO, wall / times * MICRO


@contextmanager
def _no_collection() -> Iterator[None]:
    """What others have left is not collected at the expense of who happens to be measured."""
    gc.collect(0)
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _fitting(call: Call, seconds: float) -> int:
    """How many calls take that long. Warms up by the way."""
    call()  # the first one connects
    times = 1
    while True:
        _, took = _batch(call, times)
        if took * times >= seconds * MICRO / 2:
            return max(1, round(seconds * MICRO / took))
        times *= 2
