"""The cost of a check of 1 to 10 limits on Redis."""

from __future__ import annotations

from collections.abc import Callable

from .. import report
from ..limiters import limits, ours, pyrate
from ..measure import Call, Contender, Pace, Spread, take_turns
from ..stage import valkey

PLACES = [1, 2, 3, 5, 7, 10]


def run(pace: Pace) -> report.Report:
    with valkey() as server:
        url = server.url
        makers: dict[str, Callable[[int], Call]] = {
            "resilient-tasks, token bucket": lambda times: ours("token_bucket", url, times),
            "resilient-tasks, sliding window": lambda times: ours("sliding_window", url, times),
            "pyrate-limiter, token bucket": lambda times: pyrate(state=True, url=url, times=times),
            "limits, fixed window": lambda times: limits("FixedWindowRateLimiter", url, times),
        }
        contenders = {
            (name, times): Contender(f"{name}, {times}", make(times))
            for name, make in makers.items()
            for times in PLACES
        }
        samples = take_turns(list(contenders.values()), pace)
        asked = {place: server.counted(each.call, 200) for place, each in contenders.items()}

    def lines(value: dict[tuple[str, int], float]) -> dict[str, list[float]]:
        return {name: [value[name, times] for times in PLACES] for name in makers}

    cpu = {place: Spread.of(samples[each.name].cpu).median for place, each in contenders.items()}
    busy = {place: counted.busy / 200 for place, counted in asked.items()}
    along = "limits in a check"
    return report.Report(
        curves={
            "Limits in a check on Redis: client": report.Curves(along, "µs of CPU", PLACES, lines(cpu)),
            "Limits in a check on Redis: server": report.Curves(along, "µs", PLACES, lines(busy)),
        }
    )
