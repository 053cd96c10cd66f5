"""A check of a limiter whose state is in Redis: the client's CPU time, and the commands that the server gets."""

from __future__ import annotations

from .. import report
from ..limiters import evalsha, on_redis, raw_evalsha
from ..measure import Contender, Pace, take_turns
from ..stage import django, valkey

TITLE = "A check of a limiter on Redis"
FLOOR = "redis-py EVALSHA"
RAW = "a socket and EVALSHA"


def run(pace: Pace) -> report.Report:
    with valkey() as server:
        django(server)
        limiters = list(on_redis(server))
        contenders = [Contender(FLOOR, evalsha(server), "floor"), Contender(RAW, raw_evalsha(server), "floor")]
        contenders += [Contender(each.name, each.make(), each.role) for each in limiters]
        samples = take_turns(contenders, pace)
        asked = {}
        for each in contenders:
            counted = server.counted(each.call, 500)
            asked[each.name] = counted.commands / 500, counted.busy / 500
    found = report.figures(contenders, samples, asked=asked)
    cpu = {each.name: each.cpu.median for each in found}
    commands = {name: commands for name, (commands, _) in asked.items()}
    of_one = [each.name for each in limiters if each.role == "peer" and "5 limits" not in each.name]
    of_five = [each.name for each in limiters if each.role == "peer" and "5 limits" in each.name]
    rows = [
        report.Row(
            f"limiter on Redis, {what}: client's CPU for a check",
            "µs",
            ours=cpu[f"resilient-tasks, {what}"],
            target=75,
            peers=[report.least(cpu, peers)],
            floor=report.Best(FLOOR, cpu[FLOOR]),
        )
        for what, peers in (("sliding window", of_one), ("token bucket", of_one), ("token bucket, 5 limits", of_five))
    ]
    rows.append(
        report.Row(
            "limiter on Redis, 5 limits: commands a check",
            "",
            ours=commands["resilient-tasks, token bucket, 5 limits"],
            target=1,
            peers=[report.least(commands, of_five)],
        )
    )
    return report.Report(rows, {TITLE: found})
