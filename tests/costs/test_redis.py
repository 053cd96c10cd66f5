"""What goes over the wire to Redis."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest

from benchmarks import stage
from ratelimit_core import CircuitBreaker, Limiter
from ratelimit_core.backends import Call, RedisBackend
from ratelimit_core.guard import Admission, Guard
from ratelimit_core.policies import CONCURRENCY, TOKEN_BUCKET
from ratelimit_core.policies.concurrency import HIT

from .meter import Wire, nothing, wire

TIMES = 100
MARGIN = 1.03
"""Numbers have more and fewer digits."""


@pytest.fixture(scope="module")
def server() -> Iterator[stage.Server]:
    with stage.valkey() as server:
        yield server


@pytest.fixture
def backend(server: stage.Server) -> Iterator[RedisBackend]:
    backend = RedisBackend(server.url, key_prefix="costs", socket_timeout=5)  # however busy the machine
    yield backend
    backend.close()


def within(found: Wire, commands: int, sent: int, received: int) -> None:
    assert found.commands == commands, f"{found.commands} commands for a call in place of {commands}"
    for what, now, before in (("sent", found.sent, sent), ("received", found.received, received)):
        assert now <= before * MARGIN, f"{now} bytes are {what} for a call in place of {before}"


def breaker(backend: RedisBackend, name: str, cache_ttl: float) -> CircuitBreaker:
    return CircuitBreaker(name, failure_threshold=100_000, cache_ttl=cache_ttl, backend=backend)


def test_a_call_through_a_closed_breaker(server: stage.Server, backend: RedisBackend) -> None:
    within(wire(server, [breaker(backend, "closed", 60)(nothing)] * TIMES), 0, 0, 0)


def test_a_closed_breaker_that_asks_anew(server: stage.Server, backend: RedisBackend) -> None:
    within(wire(server, [breaker(backend, "refreshed", 0)(nothing)] * TIMES), 1, 464, 143)


def test_a_failure(server: stage.Server, backend: RedisBackend) -> None:
    failing = breaker(backend, "failing", 60)
    within(wire(server, [lambda: failing.acquire().failure()] * TIMES), 1, 443, 159)


@pytest.mark.parametrize(
    ("rate", "sent", "received"), [("1000/s", 265, 78), ("1000/s;2000/m;3000/h;4000/d;5000/2d", 1052, 391)]
)
def test_a_check(server: stage.Server, backend: RedisBackend, rate: str, sent: int, received: int) -> None:
    limiter = Limiter(rate, key="check", backend=backend)
    within(wire(server, [limiter.hit] * TIMES), 1, sent, received)


def test_what_a_task_asks_and_what_it_says_at_its_end(server: stage.Server, backend: RedisBackend) -> None:
    limiter = Limiter("50000/s;100000/m", key="task", concurrency=1000, backend=backend)
    guard = Guard(breaker(backend, "task", 0), limiter)
    leaves: list[Admission] = []
    within(wire(server, [lambda: leaves.append(guard.acquire())] * TIMES), 1, 1000, 364)
    within(wire(server, [partial(leave.record, None) for leave in leaves]), 1, 231, 57)


def test_sixty_four_batches_of_two_calls(server: stage.Server, backend: RedisBackend) -> None:
    def batches(turn: int) -> list[list[Call]]:
        return [
            [
                Call(TOKEN_BUCKET, (f"key {i:02}", ""), (HIT, 1, 0, 0), (60, 1_000_000, 60_000_000)),
                Call(CONCURRENCY, (f"key {i:02}", ""), (HIT, 1, 999), (1000, 60_000_000), f"lease {turn:03}"),
            ]
            for i in range(64)
        ]

    calls: list[Callable[[], object]] = [partial(backend.apply_each, batches(turn)) for turn in range(TIMES)]
    within(wire(server, calls), 1, 22744, 10757)
