"""A refusal by an open breaker: an exception that is raised and caught."""

from __future__ import annotations

from .. import report
from ..breakers import BREAKERS, OURS, Service
from ..measure import Call, Contender, Pace, take_turns
from ..stage import django, valkey

TITLE = "A refusal by an open breaker"
RAISING = "an exception, raised and caught"


def run(pace: Pace) -> report.Report:
    django()
    with valkey() as server:
        contenders = [Contender(RAISING, _caught(_raise), "floor")]
        for each in BREAKERS:
            service = Service()
            guarded = each.guard(service.call, server)
            service.down = True
            call = _caught(guarded)
            for _ in range(20):
                call()
            service.down = False  # what would get through now would raise nothing
            _must_refuse(each.name, guarded)
            contenders.append(Contender(each.name, call, each.role))
        samples = take_turns(contenders, pace)
        calls = {each.name: each.call for each in contenders}
        asked = {}
        for each in BREAKERS:
            if each.shared:
                counted = server.counted(calls[each.name], 500)
                asked[each.name] = counted.commands / 500, counted.busy / 500
    found = report.figures(contenders, samples, RAISING, asked)
    cpu = {each.name: each.cpu.median for each in found}
    alone = [each.name for each in BREAKERS if each.role == "peer" and not each.shared]
    together = [each.name for each in BREAKERS if each.role == "peer" and each.shared]
    commands = {name: commands for name, (commands, _) in asked.items()}
    rows = [
        report.Row(
            "open breaker, shared: a refusal",
            "µs",
            ours=cpu[OURS.name],
            target=3.0,
            peers=[report.least(cpu, alone), report.least(cpu, together)],
            floor=report.Best("raise and catch", cpu[RAISING]),
        ),
        report.Row(
            "open breaker, shared: commands a refusal",
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
        try:  # not contextlib.suppress(), which costs more than some refusals
            return call()
        except Exception:
            return None

    return caught


def _must_refuse(name: str, guarded: Call) -> None:
    try:
        guarded()
    except Exception:
        return
    raise AssertionError(f"{name} is not open")
