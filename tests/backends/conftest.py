from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ratelimit_core.testing import ManualClock

from .faults import Faults, FaultyMemory, FaultyMulti, FaultyRedis

MakeBackend = Callable[..., Faults]


@pytest.fixture(params=["memory", "valkey", "multi"])
def make(request: pytest.FixtureRequest, clock: ManualClock) -> Iterator[MakeBackend]:
    """A store of each kind on the test's clock, that fails when told to."""
    made: list[Faults] = []

    def make(**options: Any) -> Faults:
        backend: Faults
        match request.param:
            case "memory":
                backend = FaultyMemory(clock=clock, **options)
            case "valkey":
                url = request.getfixturevalue("valkey_url")
                backend = FaultyRedis(url, key_prefix=f"test-{uuid.uuid4().hex}", clock=clock, **options)
            case _:
                backend = FaultyMulti([FaultyMemory(clock=clock), FaultyMemory(clock=clock)], clock=clock, **options)
        made.append(backend)
        return backend

    yield make
    for backend in made:
        backend.fault = None
        backend.reset_circuit_breaker()
        backend.clear()
        backend.close()
