"""A call through a closed breaker: the CPU time that the breaker adds, and the commands that the server gets."""

from __future__ import annotations

from dataclasses import replace

from .. import report
from ..breakers import BREAKERS, OURS, Service
from ..measure import Contender, Pace, take_turns
from ..stage import django, valkey

TITLE = "A call through a closed breaker"
BARE = "the call alone"


def run(pace: Pace) -> report.Report:
    django()
    with valkey() as server:
        service = Service()
        contenders = [Contender(BARE, service.call, "floor")]
        contenders += [Contender(each.name, each.guard(service.call, server), each.role) for each in BREAKERS]
        # Batches are long, so that the refresh in every quarter of a second has its due share.
        pace = replace(pace, batch=0.05, rounds=5) if pace.quick else replace(pace, batch=0.15, rounds=25)
        samples = take_turns(contenders, pace)
    shared = [each for each in BREAKERS if each.shared]
    asked, a_second = {}, {}
    for each in shared:
        with valkey() as server:  # a separate server, because some libraries send commands in the background
            guarded = each.guard(service.call, server, name="counted")
            counted = server.counted(guarded, 500)
            asked[each.name] = counted.commands / 500, counted.busy / 500
            seconds = 4.0 if each is OURS or not pace.quick else 1.0
            a_second[each.name] = server.counted_for(guarded, seconds).commands / seconds
    found = report.figures(contenders, samples, BARE, asked)
    added = {each.name: each.added.median for each in found if each.added}
    alone = [each.name for each in BREAKERS if each.role == "peer" and not each.shared]
    together = [each.name for each in shared if each.role == "peer"]
    rows = [
        report.Row(
            "closed breaker, shared: CPU added to a call",
            "µs",
            ours=added[OURS.name],
            target=1.0,
            peers=[report.least(added, alone), report.least(added, together)],
            floor=report.Best(BARE, found[0].cpu.median),
        ),
        report.Row(
            "closed breaker, shared: commands a second, called without a pause",
            "/s",
            ours=a_second[OURS.name],
            target=5,
            peers=[report.least(a_second, together)],
        ),
    ]
    return report.Report(rows, {TITLE: found})
