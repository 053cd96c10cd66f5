"""One of several processes that want more of some limiters than there is; tells when it got what."""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, get_args

from ratelimit_core import Limiter
from ratelimit_core.backends import Backend, MemoryBackend, MultiBackend, RedisBackend
from ratelimit_core.limits import Algorithm

THREADS = 8
LIMIT = 40
PERIOD = 0.5
PLACES = 3
SECONDS = 4.0

Spans = list[tuple[int, int]]
"""In ns: not before and not after."""


def hammer(backend: Backend) -> None:
    limiters = {
        algorithm: Limiter(f"{LIMIT}/{PERIOD * 1000:.0f}ms", key=algorithm, algorithm=algorithm, backend=backend)
        for algorithm in get_args(Algorithm)
    }
    places = Limiter(concurrency=PLACES, key="places", backend=backend)
    spans: dict[str, Spans] = {name: [] for name in (*limiters, "places")}

    def work(deadline: float) -> None:
        while time.monotonic() < deadline:
            for name, limiter in limiters.items():
                before = time.time_ns()
                if limiter.hit():
                    spans[name].append((before, time.time_ns()))
            if place := places.hit():
                began = time.time_ns()
                places.peek()  # takes a while
                spans["places"].append((began, time.time_ns()))
                places.release(place)

    print("ready", flush=True)
    sys.stdin.readline()
    with ThreadPoolExecutor(THREADS) as pool:
        for worker in [pool.submit(work, time.monotonic() + SECONDS) for _ in range(THREADS)]:
            worker.result()
    print("spans", json.dumps(spans), flush=True)


def shared(url: str, kind: str) -> Backend:
    patient: Any = {"socket_timeout": 30, "socket_connect_timeout": 30}  # on a busy machine too
    options = {**patient, "sentinel_kwargs": patient} if "+sentinel" in url else patient
    backend = RedisBackend(url, key_prefix="hammer", **options)
    if kind == "round_robin":
        return MultiBackend([backend, RedisBackend(url, key_prefix="hammer-too", **options)], strategy=kind)
    return MultiBackend([backend, MemoryBackend()]) if kind == "multi" else backend


if __name__ == "__main__":
    hammer(shared(*sys.argv[1:]))
