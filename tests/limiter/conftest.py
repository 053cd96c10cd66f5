"""A limiter on each store in turn, whose time stands still until the test moves it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from ratelimit_core import CircuitBreaker, Limiter
from ratelimit_core.backends import Backend, RedisBackend
from ratelimit_core.guard import Admission, Guard
from ratelimit_core.limiter import Algorithm
from ratelimit_core.testing import ManualClock
from tests.servers import PATIENT

MakeLimiter = Callable[..., Limiter]
Guarding = Callable[[CircuitBreaker | None, Limiter | None], Guard]

ALGORITHMS: list[Algorithm] = [
    "sliding_window",
    "sliding_window_counter",
    "fixed_window",
    "token_bucket",
    "leaky_bucket",
]
RESERVING: list[Algorithm] = ["sliding_window", "token_bucket", "leaky_bucket"]


@pytest.fixture
def make(store: Backend, clock: ManualClock) -> MakeLimiter:
    """``Limiter(...)`` on the store and the clock of the test."""

    def make(rate: Any = None, **options: Any) -> Limiter:
        return Limiter(rate, **{"key": "supplier", "backend": store, "clock": clock, **options})

    return make


@pytest.fixture
def shared(valkey_url: str, lasting_keys: None, clock: ManualClock) -> Iterator[Backend]:
    """A store that other processes share, on the test's clock."""
    backend = RedisBackend(valkey_url, key_prefix="test-limits", clock=clock, **PATIENT)
    yield backend
    backend.clear()
    backend.close()


@pytest.fixture
def round_trips(valkey_url: str, shared: Backend) -> Callable[[], int]:
    """How many scripts the Valkey ran since this was asked last."""
    client = redis.Redis.from_url(valkey_url)
    seen = 0

    def count() -> int:
        nonlocal seen
        before = seen
        stats = client.info("commandstats")
        seen = sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("eval", "evalsha"))
        return seen - before

    return count


@pytest.fixture(params=["sync", "async"])
def guarding(request: pytest.FixtureRequest) -> Iterator[Guarding]:
    """Make a guard; it is asked, and what it admits is settled, in one of the two ways."""
    if request.param == "sync":
        yield Guard
        return
    loop = asyncio.new_event_loop()

    class AdmissionInLoop(Admission):
        def record(self, error: BaseException | None) -> float:
            return loop.run_until_complete(self.arecord(error))

        def fail(self, error: BaseException) -> float:
            return loop.run_until_complete(self.afail(error))

        def record_result(self, result: object) -> None:
            loop.run_until_complete(self.arecord_result(result))

        def cancel(self) -> None:
            loop.run_until_complete(self.acancel())

    class GuardInLoop(Guard):
        def acquire(self, **options: Any) -> Admission:
            taken = loop.run_until_complete(self.aacquire(**options))
            admission = AdmissionInLoop(self.limiter, taken.key, taken.permit)
            admission.decision = taken.decision
            return admission

    yield GuardInLoop
    loop.close()
