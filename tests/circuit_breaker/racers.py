"""What the other processes of the tests of the history do."""

from __future__ import annotations

from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier

from ratelimit_core import CircuitBreaker, CircuitBreakerError, events
from ratelimit_core.backends import RedisBackend


def open_and_probe(url: str, prefix: str, names: list[str], start: Barrier, answers: Connection) -> None:
    """Fail together until each breaker opens, then race for its probe, which succeeds; send what was reported."""
    seen: list[tuple[str, str]] = []

    def see(event: events.Event) -> None:
        if isinstance(event, events.StateChanged):
            seen.append((event.name, event.new))

    events.subscribe(see)
    backend = RedisBackend(url, key_prefix=prefix, socket_timeout=30)
    for name in names:
        breaker = CircuitBreaker(name, backend=backend, failure_threshold=3, recovery_timeout=0.05, cache_ttl=0)
        permit = breaker.acquire()
        start.wait(60)
        permit.failure()
        start.wait(60)
        closed = False
        while not closed:
            with suppress(CircuitBreakerError):
                permit = breaker.acquire()
                permit.success()
                closed = True
        start.wait(60)
    answers.send(seen)
