"""A fleet in one process: each member has a breaker of its own on the shared store."""

from __future__ import annotations

from typing import Any

import pytest

from ratelimit_core import CircuitBreaker, CircuitBreakerError
from ratelimit_core.backends import Backend
from ratelimit_core.circuit_breaker import circuit_breaker_registry
from ratelimit_core.circuit_breaker.permit import Permit
from ratelimit_core.testing import ManualClock


class Fleet:
    def __init__(self, store: Backend, clock: ManualClock) -> None:
        self.store = store
        self.clock = clock

    def process(self, name: str = "upstream", **options: Any) -> CircuitBreaker:
        """A breaker as another process has it: one that knows only what the store says."""
        circuit_breaker_registry._breakers.clear()
        breaker = CircuitBreaker(name, backend=self.store, clock=self.clock, **options)
        assert breaker.config.name == name
        return breaker

    def processes(self, number: int, **options: Any) -> list[CircuitBreaker]:
        return [self.process(**options) for _ in range(number)]


def broken() -> None:
    raise ConnectionError("upstream is down")


def fail(breaker: CircuitBreaker, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(ConnectionError):
            breaker.call(broken)


def succeed(breaker: CircuitBreaker, times: int = 1) -> None:
    for _ in range(times):
        assert breaker.call(lambda: "fine") == "fine"


def ask(breaker: CircuitBreaker) -> Permit | None:
    try:
        return breaker.acquire()
    except CircuitBreakerError:
        return None


def probe(breaker: CircuitBreaker) -> Permit:
    permit = breaker.acquire()
    assert permit.probe
    return permit


def refused(breaker: CircuitBreaker) -> CircuitBreakerError:
    with pytest.raises(CircuitBreakerError) as caught:
        breaker.acquire()
    return caught.value
