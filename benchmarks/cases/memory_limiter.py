"""A check of a limiter in the memory of one process."""

from __future__ import annotations

from .. import report
from ..limiters import IN_MEMORY, lock_and_dict
from ..measure import MICRO, Contender, Pace, take_turns
from ..stage import django

TITLE = "A check of a limiter in memory"
FLOOR = "a lock and a dictionary"


def run(pace: Pace) -> report.Report:
    django()
    contenders = [Contender(FLOOR, lock_and_dict(), "floor")]
    contenders += [Contender(each.name, each.make(), each.role) for each in IN_MEMORY]
    samples = take_turns(contenders, pace)
    found = report.figures(contenders, samples, FLOOR)
    share = {name: 100 / mine.ratio_to(samples[FLOOR]).median for name, mine in samples.items()}
    peers = [each.name for each in IN_MEMORY if each.role == "peer"]
    floor = report.Best(FLOOR, round(MICRO / found[0].cpu.median))
    rows = [
        report.Row(
            f"limiter in memory, {algorithm}: checks a second, of the floor's",
            "%",
            ours=share[f"resilient-tasks, {algorithm}"],
            target=50,
            better="more",
            peers=[report.most(share, peers)],
            floor=floor,
        )
        for algorithm in ("token bucket", "sliding window")
    ]
    return report.Report(rows, {TITLE: found})
