"""The cost of a check with 1 to 1,000,000 keys, and the memory of a key in the process and in Redis."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import cycle, islice
from random import Random
from typing import Any

from .. import report
from ..measure import Call, Contender, Pace, Role, Spread, take_turns
from ..stage import Server, resident, valkey

WEIGHED_FROM = 10_000
"""The memory of fewer keys is lost in other changes of the memory of a process or a server."""


@dataclass(frozen=True, slots=True)
class Limited:
    """A limiter of 10,000 an hour. ``check`` checks one key; ``fill`` checks many keys for the first time."""

    check: Callable[[str], object]
    fill: Callable[[Iterable[str]], None]


@dataclass(frozen=True, slots=True)
class Growing:
    """A limiter to measure with up to ``most`` keys."""

    name: str
    make: Callable[[Server], Limited]
    most: int
    shared: bool = False
    role: Role = "peer"


def run(pace: Pace) -> report.Report:
    places = [1, 100, 10_000] if pace.quick else [1, 10, 100, 1000, 10_000, 100_000, 1_000_000]
    cpu: dict[str, list[float | None]] = {each.name: [] for each in GROWING}
    weight: dict[str, list[float | None]] = {each.name: [] for each in GROWING}
    for number in places:
        keys = [f"client-{n}" for n in range(number)]
        Random(number).shuffle(keys)
        for each in GROWING:
            found = _measured(each, keys, pace) if number <= each.most else (None, None)
            cpu[each.name].append(found[0])
            weight[each.name].append(found[1] if number >= WEIGHED_FROM else None)

    def of(values: dict[str, list[float | None]], shared: bool) -> dict[str, list[float | None]]:
        return {each.name: values[each.name] for each in GROWING if each.shared == shared}

    return report.Report(
        curves={
            "Keys of a limiter in memory": report.Curves("keys", "µs of CPU a check", places, of(cpu, False)),
            "Keys of a limiter on Redis": report.Curves("keys", "µs of CPU a check", places, of(cpu, True)),
            "Memory of the process for a key": report.Curves("keys", "bytes", places, of(weight, False)),
            "Memory of Redis for a key": report.Curves("keys", "bytes", places, of(weight, True)),
        }
    )


def _measured(each: Growing, keys: list[str], pace: Pace) -> tuple[float, float]:
    """Return the CPU time of a check in µs, and the bytes of a key.

    Limiters are measured one by one, because some have threads that go through all of their keys.
    """
    with valkey() as server:
        before = _weighed(each, server)
        limited = each.make(server)
        limited.fill(keys)
        grown = _weighed(each, server) - before
        samples = take_turns([Contender(each.name, _in_turn(limited.check, keys), each.role)], pace)
    return Spread.of(samples[each.name].cpu).median, grown / len(keys)


def _weighed(each: Growing, server: Server) -> int:
    if not each.shared:
        return resident()
    used: int = server.client.info("memory")["used_memory"]
    return used


def _in_turn(check: Callable[[str], object], keys: list[str]) -> Call:
    following = cycle(keys).__next__
    return lambda: check(following())


def _one_by_one(check: Callable[[str], object]) -> Limited:
    def fill(keys: Iterable[str]) -> None:
        for key in keys:
            check(key)

    return Limited(check, fill)


def _floor(server: Server) -> Limited:
    lock, full_at = threading.Lock(), dict[str, float]()

    def check(key: str) -> bool:
        with lock:
            now = time.monotonic()
            at = max(full_at.get(key, now), now) + 0.36
            if at - now > 3600.0:
                return False
            full_at[key] = at
            return True

    return _one_by_one(check)


def _limits(uri: str) -> Limited:
    import limits as library
    from limits.storage import storage_from_string

    limiter = library.strategies.FixedWindowRateLimiter(storage_from_string(uri))
    item = library.parse("10000/hour")
    return _one_by_one(lambda key: limiter.hit(item, key))


def _ours(algorithm: Any, url: str | None = None) -> Limited:
    from ratelimit_core import Limiter
    from ratelimit_core.backends import Backend, MemoryBackend, RedisBackend
    from ratelimit_core.limiter.batch import hit_check

    backend: Backend = MemoryBackend(max_keys=2_000_000) if url is None else RedisBackend(url, socket_timeout=5)
    limiter = Limiter("10000/h", key="benchmark", algorithm=algorithm, backend=backend)

    def fill(keys: Iterable[str]) -> None:
        following = iter(keys)
        while some := list(islice(following, 200)):
            backend.apply([call for key in some for call in hit_check(limiter, key, 1, f"first of {key}").calls])

    return Limited(lambda key: limiter.hit(key=key), fill)


GROWING = [
    Growing("a lock and a dictionary", _floor, 1_000_000, role="floor"),
    Growing("limits, fixed window, memory", lambda server: _limits("memory://"), 1_000_000),
    Growing("resilient-tasks, token bucket, memory", lambda server: _ours("token_bucket"), 1_000_000, role="ours"),
    Growing("resilient-tasks, sliding window, memory", lambda server: _ours("sliding_window"), 1_000_000, role="ours"),
    Growing("limits, fixed window, Redis", lambda server: _limits(server.url), 100_000, True),
    Growing(
        "resilient-tasks, token bucket, Redis",
        lambda server: _ours("token_bucket", server.url),
        1_000_000,
        True,
        "ours",
    ),
    Growing(
        "resilient-tasks, sliding window, Redis",
        lambda server: _ours("sliding_window", server.url),
        100_000,
        True,
        "ours",
    ),
]
