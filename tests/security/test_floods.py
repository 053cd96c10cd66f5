"""A flood of keys that clients choose: what each process and each store keeps of it is bounded."""

from __future__ import annotations

import ast
import gc
import logging
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from django.test import RequestFactory

from ratelimit_core import CircuitBreaker, Limiter
from ratelimit_core.backends import DatabaseBackend, MemoryBackend, RedisBackend
from ratelimit_core.circuit_breaker.definitions import MAX_INSTANCES, definitions
from ratelimit_core.django.limits.addresses import Proxies
from ratelimit_core.policies import POLICIES
from ratelimit_core.testing import ManualClock
from tests import databases
from tests.servers import PATIENT, ROOT

pytestmark = pytest.mark.slow

FLOOD = 4000
PADDING = "x" * 10_000  # so that names that were kept would be 40 MB


class Shared(MemoryBackend):
    """What is remembered of a shared store, without the round trips."""

    shared = True


def hits(limiter: Limiter) -> Iterator[None]:
    for n in range(FLOOD):
        limiter.hit(key=f"{n}{PADDING}")
        yield


def breakers(clock: ManualClock) -> Iterator[None]:
    family = CircuitBreaker("{name}", backend=Shared(clock=clock, max_keys=1000), failure_threshold=1)
    for n in range(FLOOD // 2):
        family.bind(name=f"{n}{PADDING}").acquire().failure()
        yield
    assert len(definitions["{name}"].instances) <= MAX_INSTANCES


def requests_by(header: str) -> Iterator[None]:
    proxies = Proxies(["10.0.0.0/8", *(["forwarded"] if header == "HTTP_FORWARDED" else [])])
    request = RequestFactory().get("/")
    for n in range(FLOOD):
        request.META |= {"REMOTE_ADDR": "10.0.0.1", header: f"for=9.9.{n >> 8 & 255}.{n & 255}, {PADDING[:90]}{n}"}
        proxies.origin(request)
        yield


ALGORITHMS: list[Any] = ["sliding_window", "sliding_window_counter", "fixed_window", "token_bucket"]
FLOODS: dict[str, Callable[[ManualClock], Iterator[None]]] = {
    **{
        algorithm: lambda clock, algorithm=algorithm: hits(  # type: ignore[misc] # bound now
            Limiter("1/h", key="x", algorithm=algorithm, backend=Shared(clock=clock, max_keys=1000))
        )
        for algorithm in ALGORITHMS
    },
    "blocks": lambda clock: hits(Limiter("9/h", key="x", local_quota=5, backend=Shared(clock=clock, max_keys=1000))),
    "places": lambda clock: hits(Limiter(key="x", concurrency=1, backend=Shared(clock=clock, max_keys=1000))),
    "breakers of a template": breakers,
    "addresses": lambda clock: requests_by("HTTP_X_FORWARDED_FOR"),
    "addresses, by the other header": lambda clock: requests_by("HTTP_FORWARDED"),
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
def test_a_process_keeps_little_of_a_flood(
    flood: Callable[[ManualClock], Iterator[None]], clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)  # or pytest keeps every log line
    pouring = flood(clock)
    next(pouring)
    gc.collect()
    tracemalloc.start()
    try:
        for _ in pouring:
            pass
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 12_000_000, f"{kept / 1e6:.1f} MB"


def test_every_key_in_redis_ends_and_the_indexes_shrink(valkey_url: str, clock: ManualClock) -> None:
    store = RedisBackend(valkey_url, key_prefix="flood", clock=clock, **PATIENT)
    limiters = [Limiter("1/min", key="x", algorithm=algorithm, backend=store) for algorithm in ALGORITHMS]
    limiters.append(Limiter(key="x", concurrency=1, backend=store))
    family = CircuitBreaker("{n}", backend=store, clock=clock, failure_threshold=1, reset_timeout=0)

    def flood(turn: str, number: int) -> None:
        for n in range(number):
            for limiter in limiters:
                limiter.hit(key=f"{turn} {n}")
        for n in range(number // 10):
            family.bind(n=f"{turn} {n}").acquire().failure()

    flood("first", 300)
    with redis.Redis.from_url(valkey_url, decode_responses=True) as client:
        keys = list(client.scan_iter("flood:*"))
        assert len(keys) > 1500
        assert not [key for key in keys if client.ttl(key) < 0]
        clock.advance(30 * 86400)
        flood("second", 200)
        for policy in POLICIES.values():
            assert client.zcard(f"flood:index:{policy.name}") <= 200, "each newcomer swept out two"
    store.clear()
    store.close()


def test_a_database_sweeps_out_what_has_ended(tmp_path: Path, clock: ManualClock) -> None:
    with databases.sqlite(tmp_path) as alias:  # of its own: newcomers sweep out what other tests have left, too
        store = DatabaseBackend(alias, key_prefix="flood", clock=clock)
        limiter = Limiter("1/min", key="x", algorithm="fixed_window", backend=store)
        for n in range(100):
            limiter.hit(key=f"first {n}")
        clock.advance(3600)
        for n in range(60):
            limiter.hit(key=f"second {n}")
        assert store.prune() == (0, 0), "each newcomer swept out two"
        store.close()


WITHOUT_BOUND = {"cache", "functools.cache", "lru_cache(maxsize=None)", "lru_cache(None)"}
UNBOUNDED = {
    "ratelimit_core/backends/redis/scripts.py": "sets of policies' names",
    "ratelimit_core/backends/database/functions.py": "policies' names",
    "ratelimit_core/backends/leases.py": "policies",
    "ratelimit_core/django/console/views.py": "no argument",
    "resilient_tasks/protection.py": "no argument",
}
"""By the module: what its caches without a bound are of, which no client chooses."""


def test_every_cache_without_a_bound_is_known() -> None:
    found = set()
    for package in ("ratelimit_core", "resilient_tasks"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                for decorator in getattr(node, "decorator_list", ()):
                    if ast.unparse(decorator) in WITHOUT_BOUND:
                        found.add(str(path.relative_to(ROOT)))
    assert found == set(UNBOUNDED)
