"""Real processes on a real server: races and forks. Kills and pauses are in tests/faults."""

from __future__ import annotations

import multiprocessing
import os
import signal
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ratelimit_core import CircuitBreaker
from ratelimit_core.backends import RedisBackend
from ratelimit_core.events import Event, StateChanged
from tests import servers
from tests.circuit_breaker import members

SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def prefix() -> str:
    return f"races-{uuid.uuid4().hex}"


@pytest.fixture
def backend(valkey_url: str, prefix: str) -> Iterator[RedisBackend]:
    backend = RedisBackend(valkey_url, key_prefix=prefix, socket_timeout=30)
    yield backend
    backend.clear()
    backend.close()


@pytest.mark.parametrize("places", [1, 3])
def test_eight_processes_race_for_a_probe(valkey_url: str, prefix: str, backend: RedisBackend, places: int) -> None:
    names = [f"round-{number}" for number in range(100)]
    options: dict[str, Any] = {"failure_threshold": 1, "recovery_timeout": 0.001, "half_open_max_calls": places}
    for name in names:
        CircuitBreaker(name, backend=backend, **options).acquire().failure()
    start = SPAWN.Barrier(8)
    pipes = [SPAWN.Pipe(duplex=False) for _ in range(8)]
    racers = [
        SPAWN.Process(target=members.race, args=(valkey_url, prefix, names, options, start, sender))
        for _, sender in pipes
    ]
    for racer in racers:
        racer.start()
    let_through = [receiver.recv() if receiver.poll(90) else pytest.fail("no answer") for receiver, _ in pipes]
    for racer in racers:
        racer.join()
        racer.close()
    held = [CircuitBreaker(name, backend=backend).get_status()["half_open_calls"] for name in names]
    assert held == [places] * 100, "in every round"
    assert sum(map(len, let_through)) == places * 100


class Member:
    """Another process with the same breaker."""

    def __init__(self, url: str, prefix: str, options: dict[str, Any]) -> None:
        self.pipe, theirs = SPAWN.Pipe()
        self.process = SPAWN.Process(target=members.member, args=(url, prefix, options, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.events: list[Event] = []

    def __call__(self, command: str) -> Any:
        self.pipe.send(command)
        assert self.pipe.poll(60)
        answer, events = self.pipe.recv()
        self.events += events
        return answer

    def changes(self) -> list[tuple[str, str]]:
        return [(event.old, event.new) for event in self.events if isinstance(event, StateChanged)]

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    @contextmanager
    def paused(self) -> Iterator[None]:
        pid = self.process.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def close(self) -> None:
        self.pipe.close()  # which it sees
        self.process.join(10)
        self.process.kill()
        self.process.join()
        self.process.close()


@contextmanager
def fleet(number: int, url: str, prefix: str, **options: Any) -> Iterator[list[Member]]:
    started = [Member(url, prefix, options) for _ in range(number)]
    try:
        yield started
    finally:
        for each in started:
            each.close()


def test_a_transition_is_reported_by_the_process_that_caused_it(valkey_url: str, prefix: str) -> None:
    with fleet(2, valkey_url, prefix, failure_threshold=3, recovery_timeout=0.001, cache_ttl=0) as [one, other]:
        for each in (one, one, other):
            assert each("ask")
            each("failure")
        assert (one.changes(), other.changes()) == ([], [("closed", "open")])
        servers.eventually(lambda: one("ask"))
        one("success")
        servers.eventually(lambda: other("ask"))
        other("success")
        assert one.changes() == [("open", "half_open"), ("half_open", "closed")]
        assert other.changes() == [("closed", "open")]


@pytest.mark.parametrize("kind", ["memory", "valkey"])
def test_children_forked_in_the_middle_of_calls(kind: str, valkey_url: str, prefix: str) -> None:
    url = kind if kind == "memory" else valkey_url
    with servers.Process.python("-m", "tests.circuit_breaker.members", url, prefix) as program:
        program.wait_for("children ended with [0]", timeout=60)
