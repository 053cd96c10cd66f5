from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterator

import pytest
import redis

from ratelimit_core._util.clock import Clock
from ratelimit_core.backends import DatabaseBackend

from . import profiles  # noqa: F401 - registers them before an option can ask for one
from .participants import InDatabase, InMemory, InQuickMemory, InRedis, InSeveral, Participant, in_lua, in_multi

NewParticipant = Callable[[Clock], Participant]

SERVERS = ["valkey", "redis"]
DATABASES = ["sqlite", "postgresql", "mariadb"]
SEVERAL = ["first_healthy", "round_robin"]
"""Of stores that processes share: a Valkey before the memory, and names that are spread over two."""
PARTICIPANTS = ["memory", "quick memory", "lua", *SERVERS, *DATABASES, "multi", *SEVERAL]


@pytest.fixture(params=PARTICIPANTS)
def participant(request: pytest.FixtureRequest) -> Iterator[NewParticipant]:
    """Everybody who has to agree with the reference, one after the other; each new one has nothing stored."""
    kind: str = request.param
    run, rounds = f"conformance-{uuid.uuid4().hex}", itertools.count()

    def prefix() -> str:
        return f"{run}-{next(rounds)}"

    if kind in (*SERVERS, *SEVERAL):
        client = redis.Redis.from_url(request.getfixturevalue("redis_url" if kind == "redis" else "valkey_url"))

        def in_redis(clock: Clock) -> InRedis:
            return InRedis(kind, client, prefix(), clock)

        def in_several(clock: Clock) -> InSeveral:
            second = InMemory(clock) if kind == "first_healthy" else in_redis(clock)
            return InSeveral([in_redis(clock), second], kind)

        yield in_several if kind in SEVERAL else in_redis
        for key in client.scan_iter(f"{run}-*", count=10_000):  # ended by the test's clock, not yet by the server's
            client.delete(key)
        client.close()
    elif kind in DATABASES:
        alias: str = request.getfixturevalue(kind)
        asked = DatabaseBackend(alias)
        yield lambda clock: InDatabase(alias, prefix(), clock, asked)
        asked.close()
    elif kind == "multi":
        yield in_multi
    else:
        others: dict[str, NewParticipant] = {"memory": InMemory, "quick memory": InQuickMemory, "lua": in_lua}
        yield others[kind]
