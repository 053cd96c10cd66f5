"""A rejection by an open breaker: an exception that is raised and caught."""

from __future__ import annotations

from typing import Any

from .. import report
from ..breakers import BREAKERS, OURS, Breaker, Service, outcome
from ..measure import Call, Contender, Pace, take_turns
from ..stage import Server, django, valkey

TITLE = "A rejection by an open breaker"
RAISING = "an exception, raised and caught"


def run(pace: Pace) -> report.Report:
    django()
    with valkey() as server:
        contenders = [Contender(RAISING, _caught(_raise), "floor")]
        contenders += [Contender(each.name, _refusing(each, server), each.role) for each in BREAKERS]
        samples = take_turns(contenders, pace)
    asked = {}
    for each in BREAKERS:
        if each.shared:
            with valkey() as server:  # a separate server, because some libraries send commands in the background
                counted = server.counted(_refusing(each, server, name="counted"), 500)
                asked[each.name] = counted.commands / 500, counted.busy / 500
    found = report.figures(contenders, samples, RAISING, asked)
    cpu = {each.name: each.cpu.median for each in found}
    alone = [each.name for each in BREAKERS if each.role == "peer" and not each.shared]
    together = [each.name for each in BREAKERS if each.role == "peer" and each.shared]
    commands = {name: commands for name, (commands, _) in asked.items()}
    rows = [
        report.Row(
            "open breaker, shared: a rejection",
            "µs",
            ours=cpu[OURS.name],
            target=3.0,
            peers=[report.least(cpu, alone), report.least(cpu, together)],
            floor=report.Best("raise and catch", cpu[RAISING]),
        ),
        report.Row(
            "open breaker, shared: commands a rejection",
            "",
            ours=commands[OURS.name],
            target=0.01,
            peers=[report.least(commands, together)],
        ),
    ]
    return report.Report(rows, {TITLE: found})


def _raise() -> None:
    raise ConnectionError("down")


def _caught(call: Call) -> Call:
    def caught() -> object:
        try:  # contextlib.suppress() would cost more than some rejections
            return call()
        except Exception:
            return None

    return caught


def _refusing(breaker: Breaker, server: Server, **wanted: Any) -> Call:
    """Return a call that the breaker rejects, because failures have opened it."""
    service = Service()
    guarded = breaker.guard(service.call, server, **wanted)
    service.down = True
    for _ in range(20):
        outcome(guarded)
    service.down = False
    if not isinstance(outcome(guarded), Exception):
        raise AssertionError(f"{breaker.name} is not open")
    return _caught(guarded)
