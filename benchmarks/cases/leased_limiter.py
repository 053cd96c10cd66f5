"""A limiter with a local quota, which takes blocks of the shared limit and spends them in the process."""

from __future__ import annotations

import inspect

from .. import report
from ..limiters import evalsha, lock_and_dict, ours
from ..measure import MICRO, Contender, Pace, take_turns
from ..stage import valkey

TITLE = "A check of a limiter with a local quota on Redis"
OPTIONS = {"local_quota": 100}
FLOOR, OURS = "redis-py EVALSHA", "resilient-tasks, local quota of 100"
IN_MEMORY = "a lock and a dictionary"


def run(pace: Pace) -> report.Report:
    from ratelimit_core import Limiter

    what, unit, target = "limiter with a local quota on Redis: checks a second in one thread", "/s", 250_000
    if not OPTIONS.keys() <= inspect.signature(Limiter).parameters.keys():
        return report.Report([report.Row(what, unit, None, target, "more")])
    with valkey() as server:
        contenders = [
            Contender(IN_MEMORY, lock_and_dict(), "floor"),
            Contender(FLOOR, evalsha(server), "floor"),
            Contender(OURS, ours("token_bucket", server.url, limit=1_000_000, **OPTIONS), "ours"),
        ]
        samples = take_turns(contenders, pace)
        counted = server.counted(contenders[-1].call, 10_000)
    found = report.figures(contenders, samples, asked={OURS: (counted.commands / 10_000, counted.busy / 10_000)})
    a_second = {each.name: MICRO / each.wall.median for each in found}
    floor = report.Best(FLOOR, a_second[FLOOR])
    return report.Report([report.Row(what, unit, a_second[OURS], target, "more", floor=floor)], {TITLE: found})
