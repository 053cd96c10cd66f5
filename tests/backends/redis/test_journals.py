"""Journals on one server: bounded, ended, and forgotten with the rest."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ratelimit_core.backends import RedisBackend
from ratelimit_core.policies import FIXED_WINDOW
from tests.conformance.test_stores import use
from tests.servers import PATIENT

from .topology import Server

DAY = 24 * 3600


@pytest.fixture
def backend(server: Server) -> Iterator[RedisBackend]:
    backend = RedisBackend(f"redis://{server.address}", key_prefix="app", **PATIENT)
    yield backend
    backend.close()


def index_lasts(server: Server) -> int:
    seconds: int = server.client.ttl("app:index:journal")
    return seconds


def test_clear_forgets_journals_too_and_spares_other_prefixes(backend: RedisBackend, server: Server) -> None:
    other = RedisBackend(f"redis://{server.address}", key_prefix="app2", **PATIENT)
    for each in (backend, other):
        each.apply([use(FIXED_WINDOW)])
        for name in ("a", "{b}:c", "é" * 1000):
            each.append((name, "history"), "entry", keep=3, seconds=60)
    of_other = {key for key in server.client.scan_iter() if key.startswith(b"app2:")}
    assert len(of_other) == 2 + 3 + 1
    backend.clear()
    assert set(server.client.keys()) == of_other
    assert backend.entries(("a", "history")) == []
    assert other.entries(("a", "history")) == ["entry"]
    other.close()


def test_the_index_lasts_as_long_as_the_last_of_its_journals_and_a_day(backend: RedisBackend, server: Server) -> None:
    backend.append(("a", "history"), "entry", keep=3, seconds=100)
    assert 0 <= DAY + 100 - index_lasts(server) <= 10
    backend.append(("a", "mode"), "entry", keep=1, seconds=10 * DAY)
    assert 0 <= 11 * DAY - index_lasts(server) <= 10
    backend.append(("b", "history"), "entry", keep=3, seconds=100)
    assert 0 <= 11 * DAY - index_lasts(server) <= 10


def test_what_ended_is_swept_out_of_the_index(backend: RedisBackend, server: Server) -> None:
    backend.append(("a", "history"), "entry", keep=3, seconds=60)
    server.client.zadd("app:index:journal", {"app:{old}:journal:history": 1})
    backend.append(("b", "history"), "entry", keep=3, seconds=60)
    assert server.client.zcard("app:index:journal") == 2
    backend.clear()
    assert server.client.keys() == []


def test_a_journal_is_bounded_and_newest_first(backend: RedisBackend, server: Server) -> None:
    for entry in "abcd":
        backend.append(("a", "history"), entry, keep=3, seconds=60)
    assert backend.entries(("a", "history")) == ["d", "c", "b"]
    assert 0 < server.client.ttl("app:{a}:journal:history") <= 60
