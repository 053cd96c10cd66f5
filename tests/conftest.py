"""What the tests stand on: every store there is, and a missing server that fails where ``CI=true``."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator

import pytest
import redis

from ratelimit_core import conf
from ratelimit_core.backends import Backend, MemoryBackend, RedisBackend
from ratelimit_core.circuit_breaker import circuit_breaker_registry
from ratelimit_core.clock import ManualClock
from tests import servers
from tests.conformance import profiles  # noqa: F401 - registers them before an option can ask for one

STORES = ["memory", "valkey", "redis"]
"""Every test that asks for a store runs on each of these."""


@pytest.fixture(scope="session")
def valkey_url() -> Iterator[str]:
    """The embedded Valkey: needs nothing installed but the wheel."""
    with servers.valkey() as url:
        yield url


@pytest.fixture(scope="session")
def redis_url() -> str:
    """The machine's Redis."""
    url = os.environ.get("TEST_REDIS_URL", "redis://127.0.0.1:6379/15")
    try:
        redis.Redis.from_url(url, socket_connect_timeout=1).ping()
    except redis.RedisError as error:
        reason = f"no Redis at {url}: {error}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return url


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, clock: ManualClock) -> Iterator[Backend]:
    """Each backend in turn, empty, on the test's clock."""
    if request.param == "memory":
        yield MemoryBackend(clock=clock)
        return
    url = request.getfixturevalue(f"{request.param}_url")
    backend = RedisBackend(url, key_prefix=f"test-{uuid.uuid4().hex}", clock=clock)
    yield backend
    backend.clear()
    backend.close()


@pytest.fixture(autouse=True)
def fresh_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test sees another's breakers or settings, nor those of a Celery app."""
    monkeypatch.setattr(conf, "_sources", [])
    yield
    circuit_breaker_registry._breakers.clear()
    conf._explicit.clear()
    conf._store = None
