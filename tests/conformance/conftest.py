from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterator

import pytest
import redis

from ratelimit_core.clock import Clock

from . import profiles  # noqa: F401 - registers them before an option can ask for one
from .participants import InMemory, InRedis, Participant, in_lua

Assemble = Callable[[Clock], list[Participant]]


@pytest.fixture(scope="session")
def assemble(valkey_url: str, redis_url: str) -> Iterator[Assemble]:
    """Everybody who has to agree with the reference, with nothing stored."""
    run = f"conformance-{uuid.uuid4().hex}"
    servers = {"Valkey": redis.Redis.from_url(valkey_url), "Redis": redis.Redis.from_url(redis_url)}
    rounds = itertools.count()

    def assembled(clock: Clock) -> list[Participant]:
        prefix = f"{run}-{next(rounds)}"
        return [
            InMemory(clock),
            in_lua(clock),
            *(InRedis(name, client, prefix, clock) for name, client in servers.items()),
        ]

    yield assembled
    for client in servers.values():
        for key in client.scan_iter(f"{run}-*", count=10_000):  # ended by the test's clock, not yet by the server's
            client.delete(key)
        client.close()
