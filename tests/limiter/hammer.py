"""One of several processes that want more of some limiters than there is; tells when it got what, by the store's clock.

Each time is what the store itself decided by, so it is exact; and it has to lie between asking and hearing of it, by
the one clock that all processes of this machine share.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, get_args

from ratelimit_core import Limiter
from ratelimit_core._util.clock import SECOND, Clock, monotonic
from ratelimit_core.backends import Backend, Call, MemoryBackend, MultiBackend, RedisBackend
from ratelimit_core.limiter import Algorithm
from ratelimit_core.policies import CONCURRENCY, EXPIRES, OTHER_ANSWER, RECORD, TOKEN_BUCKET, Verdict
from ratelimit_core.policies.concurrency import REFUND

LIMIT = 40
PERIOD = 0.5
PLACES = 3
PLACE_TIMEOUT = 60
SECONDS = float(os.environ.get("HAMMER_SECONDS", "4"))
_SLEWED = 5_000
"""So many µs may the system's clock have been set right against the monotonic one in the meantime."""

Spans = list[tuple[int, int]]
"""In µs: from when it was had to when it was given back. What is not given back was had at one moment."""


def decided_at(call: Call, verdict: Verdict) -> int:
    """When the store decided it to have been, by what it answered to who was let through."""
    if call.policy is TOKEN_BUCKET:
        return verdict[RECORD + TOKEN_BUCKET.record.index("updated_at")]
    if call.policy is CONCURRENCY:
        op, *_ = call.event
        return verdict[EXPIRES] - (0 if op == REFUND else PLACE_TIMEOUT * SECOND)
    return verdict[EXPIRES] - verdict[OTHER_ANSWER]


class Witness:
    """Hears what a backend answers, in each thread."""

    def __init__(self, backend: Backend) -> None:
        self._heard = threading.local()
        self._apply, self._hit = backend.apply_unguarded, backend.hit
        backend.apply_unguarded = self._hear  # type: ignore[method-assign]
        backend.hit = self._hear_hits  # type: ignore[method-assign]

    def _hear(self, calls: Any) -> list[Verdict]:
        verdicts = self._apply(calls)
        self._heard.last = calls[0], verdicts[0]
        return verdicts

    def _hear_hits(self, call: Call) -> Callable[[str, str], Verdict] | None:
        hit = self._hit(call)

        def heard(name: str, lease_id: str) -> Verdict:
            assert hit is not None
            verdict = hit(name, lease_id)
            self._heard.last = call, verdict
            return verdict

        return None if hit is None else heard

    def when(self, asked: int, heard: int) -> int:
        """When this thread's last question was decided, which was asked and heard of then."""
        at = decided_at(*self._heard.last)
        assert asked - _SLEWED <= at <= heard + _SLEWED, (self._heard.last, asked, heard)
        return at


def hammer(backend: Backend, threads: int = 8) -> None:
    limiters = {
        algorithm: Limiter(f"{LIMIT}/{PERIOD * 1000:.0f}ms", key=algorithm, algorithm=algorithm, backend=backend)
        for algorithm in get_args(Algorithm)
    }
    places = Limiter(concurrency=PLACES, timeout=PLACE_TIMEOUT, key="places", backend=backend)
    spans: dict[str, Spans] = {name: [] for name in (*limiters, "places")}
    witness = Witness(backend)

    def work(now: Clock, deadline: float) -> None:
        while time.monotonic() < deadline:
            for name, limiter in limiters.items():
                asked = now()
                if limiter.hit():
                    at = witness.when(asked, now())
                    spans[name].append((at, at))
            asked = now()
            if place := places.hit():
                began = witness.when(asked, now())
                places.peek()  # takes a while
                asked = now()
                places.release(place)
                spans["places"].append((began, witness.when(asked, now())))

    print("ready", flush=True)
    offset = int(sys.stdin.readline())

    def now() -> int:
        return monotonic() + offset

    with ThreadPoolExecutor(threads) as pool:
        for worker in [pool.submit(work, now, time.monotonic() + SECONDS) for _ in range(threads)]:
            worker.result()
    print("spans", json.dumps(spans), flush=True)


def shared(url: str, kind: str) -> Backend:
    if kind == "memory":
        return MemoryBackend()
    patient: Any = {"socket_timeout": 30, "socket_connect_timeout": 30}  # on a busy machine too
    options = {**patient, "sentinel_kwargs": patient} if "+sentinel" in url else patient
    backend = RedisBackend(url, key_prefix="hammer", **options)
    if kind == "round_robin":
        return MultiBackend([backend, RedisBackend(url, key_prefix="hammer-too", **options)], strategy=kind)
    return MultiBackend([backend, MemoryBackend()]) if kind == "multi" else backend


if __name__ == "__main__":
    hammer(shared(*sys.argv[1:3]), *map(int, sys.argv[3:]))
