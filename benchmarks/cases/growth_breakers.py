"""The cost of a call with 1 to 10,000 breakers in a process, called in turn without a pause."""

from __future__ import annotations

from dataclasses import replace
from itertools import cycle

from .. import report
from ..breakers import BREAKERS, OURS, Service
from ..measure import Call, Contender, Pace, Spread, take_turns
from ..stage import resident, valkey

NAMES = ["circuitbreaker", "pybreaker", "resilient-tasks, memory", OURS.name]


def run(pace: Pace) -> report.Report:
    places = [1, 100, 1000] if pace.quick else [1, 10, 100, 1000, 10_000]
    # Batches are long enough for a round over all breakers, and for several refreshes of a quarter of a second.
    pace = replace(pace, batch=0.2, rounds=1) if pace.quick else replace(pace, batch=1.0, rounds=3)
    chosen = [each for each in BREAKERS if each.name in NAMES]
    cpu: dict[str, list[float | None]] = {each.name: [] for each in chosen}
    memory: dict[str, list[float | None]] = {each.name: [] for each in chosen}
    with valkey() as server:
        for number in places:
            contenders = []
            for each in chosen:
                before = resident()
                service = Service()
                calls = [each.guard(service.call, server, name=f"of {number}: {n}") for n in range(number)]
                for call in calls:
                    call()
                memory[each.name].append((resident() - before) / number if number >= 1000 else None)
                contenders.append(Contender(each.name, _in_turn(calls), each.role))
            samples = take_turns(contenders, pace)
            for each in chosen:
                cpu[each.name].append(Spread.of(samples[each.name].cpu).median)
    along = "breakers"
    return report.Report(
        curves={
            "Closed breakers called in turn": report.Curves(along, "µs of CPU a call", places, cpu),
            "Memory of the process for a breaker": report.Curves(along, "bytes", places, memory),
        }
    )


def _in_turn(calls: list[Call]) -> Call:
    following = cycle(calls).__next__

    def call() -> object:
        return following()()

    return call
