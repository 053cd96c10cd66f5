"""What another version has stored is read as it was meant, or counts as nothing; never as something else."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from django.db import connections

from ratelimit_core import CircuitBreaker, Limiter
from ratelimit_core.backends import Backend, DatabaseBackend, RedisBackend
from ratelimit_core.backends.database.sql import LEASES, RECORDS
from ratelimit_core.events import ConfigMismatch, Event, subscribe
from ratelimit_core.policies import EXPIRES, POLICIES
from ratelimit_core.protocol.breaker import MODES
from ratelimit_core.testing import ManualClock
from tests.circuit_breaker.fleet import Fleet, fail, probe, succeed
from tests.compatibility.record import PREFIX, RECORDED, START, asked, calls
from tests.servers import PATIENT

WITH_RECORDS = [policy.name for policy in POLICIES.values() if policy.record]


@pytest.fixture(scope="module")
def recorded() -> Any:
    return json.loads(RECORDED.read_text())


@pytest.fixture
def then() -> ManualClock:
    """The time at which it was recorded."""
    return ManualClock(START)


@pytest.mark.parametrize("url", ["valkey_url", "redis_url"])
def test_redis_holds_what_an_earlier_version_wrote(
    request: pytest.FixtureRequest, url: str, recorded: Any, then: ManualClock
) -> None:
    url = request.getfixturevalue(url)
    with redis.Redis.from_url(url) as client:
        for key, value in recorded["redis"].items():
            if isinstance(value, str):
                client.set(key, bytes.fromhex(value), px=60_000)
            else:
                client.zadd(key, value)
                client.pexpire(key, 60_000)
    store = RedisBackend(url, key_prefix=PREFIX, clock=then, **PATIENT)
    assert asked(store) == recorded["answers"]
    assert [store.keys(policy) for policy in POLICIES.values()] == [[("pay:{1}", "q")]] * len(POLICIES)
    store.clear()
    store.close()


Changes = Callable[[str, list[Any]], None]


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def database(request: pytest.FixtureRequest, then: ManualClock) -> Iterator[tuple[DatabaseBackend, Changes]]:
    """A database, and what changes it past the library."""
    alias = request.getfixturevalue(request.param)
    store = DatabaseBackend(alias, key_prefix=PREFIX, clock=then, timeout=20)

    def execute(text: str, parameters: list[Any]) -> None:
        with connections[alias].cursor() as cursor:
            cursor.execute(text, parameters)

    yield store, execute
    store.clear()
    store.close()


def test_a_database_holds_what_an_earlier_version_wrote(
    database: tuple[DatabaseBackend, Changes], recorded: Any
) -> None:
    store, execute = database
    for row in recorded["database"][RECORDS]:
        execute(f"INSERT INTO {RECORDS} VALUES ({', '.join(['%s'] * len(row))})", row)
    for row in recorded["database"][LEASES]:
        execute(f"INSERT INTO {LEASES} (record, owner, part, ends) VALUES (%s, %s, %s, %s)", row)
    for _ in range(2):  # PostgreSQL's first and second question go different ways
        assert asked(store) == recorded["answers"]


GARBAGE = [
    "",
    " ",
    "1",
    "1 2 x",
    "not a record",
    "9" * 400,
    "1 " * 400,
    "NaN 1e5",
    "; DROP TABLE x",
    "é" * 9,
    "1.5 2 3",
]


@pytest.mark.parametrize("name", WITH_RECORDS)
def test_a_record_of_another_version_or_garbage_in_a_database_counts_as_none(
    database: tuple[DatabaseBackend, Changes], name: str
) -> None:
    store, execute = database
    (*_, look), policy = calls(name), POLICIES[name]
    first = calls(name)[0]
    fresh = store.apply([look])[0][:EXPIRES]
    right = " ".join(["7"] * len(policy.record))
    changes = [(policy.version, data) for data in GARBAGE]
    changes += [(policy.version, f"{right} 7"), (policy.version, right[2:]), (policy.version, right.replace(" ", "  "))]
    changes += [(version, right) for version in (0, policy.version - 1, policy.version + 1, 99)]
    for turn in range(2):
        for version, data in changes:
            store.delete(policy, [first.key])
            store.apply([first])
            execute(f"UPDATE {RECORDS} SET version = %s, data = %s WHERE prefix = %s", [version, data, PREFIX])
            if policy.leases:
                execute(f"DELETE FROM {LEASES} WHERE record IN (SELECT id FROM {RECORDS} WHERE prefix = %s)", [PREFIX])
            assert store.apply([look])[0][:EXPIRES] == fresh, (turn, version, data)
            assert store.apply([first])[0][0] == 1
            with connections[store.alias].cursor() as cursor:
                cursor.execute(f"SELECT version, data FROM {RECORDS} WHERE prefix = %s", [PREFIX])
                ((written, now),) = cursor.fetchall()
            assert (written, len(now.split())) == (policy.version, len(policy.record))


def test_a_history_of_another_version_is_shown_as_far_as_it_is_known(store: Backend) -> None:
    breaker = CircuitBreaker("payments", backend=store)
    breaker.force_open("ann", "a drill")
    entries = [
        '{"name": "payments", "event": "opened", "at": 1.0}',  # an older one, with less
        '{"name": "payments", "event": "frozen", "at": 2.0, "by": {"a": 1}}',  # a newer one
        *("", "not json", "[]", "7", "null", "{}", '{"event": 1, "at": "x"}'),
    ]
    for entry in entries:
        store.append(("payments", "history"), entry, keep=100, seconds=60)
        store.append(("payments", "mode"), entry, keep=1, seconds=60)
    assert [entry["event"] for entry in breaker.history()] == ["frozen", "opened", "forced_open"]
    assert all(entry["author"] in ("", "ann") for entry in breaker.history())
    assert breaker.get_status()["author"] == "", "nobody knows any more"


def test_a_journal_that_is_garbage_is_begun_anew(database: tuple[DatabaseBackend, Changes]) -> None:
    store, execute = database
    for garbage in ("", "not json", "{}", "[1, 2]", "7"):
        store.append(("x", "history"), "old", keep=5, seconds=60)
        execute(f"UPDATE {RECORDS} SET data = %s WHERE prefix = %s", [garbage, PREFIX])
        assert store.entries(("x", "history")) == []
        store.append(("x", "history"), "new", keep=5, seconds=60)
        assert store.entries(("x", "history")) == ["new"]


def test_two_configurations_of_a_breaker_live_side_by_side(store: Backend, clock: ManualClock) -> None:
    """The old processes and the new ones of a deploy: one state, which no settings but those of who reports change."""
    happened: list[Event] = []
    unsubscribe = subscribe(happened.append)
    fleet = Fleet(store, clock)
    old, new = fleet.process(failure_threshold=5), fleet.process(failure_threshold=3, recovery_timeout=30)
    for _ in range(20):
        clock.advance(1)
        succeed(old)
        succeed(new)
    assert not [event for event in happened if not isinstance(event, ConfigMismatch)], "nothing but that"
    assert 1 <= len(happened) <= 2
    clock.advance(0.01)
    fail(old, 2)
    fail(new)  # the third in a row, which is enough for the new ones
    clock.advance(1)
    for breaker in (old, new):
        assert breaker.peek(refresh=True)[0] == "open"
    clock.advance(60)
    probe(old).success()
    clock.advance(1)
    assert [breaker.peek(refresh=True)[0] for breaker in (old, new)] == ["closed", "closed"]
    changes = [event.new for event in happened if hasattr(event, "new")]
    assert changes == ["open", "half_open", "closed"]
    assert len([event for event in happened if isinstance(event, ConfigMismatch)]) <= 2, "once in each process"
    unsubscribe()


def test_two_rates_of_one_key_count_each_for_itself(store: Backend) -> None:
    old, new = (Limiter(rate, key="supplier", backend=store) for rate in ("4/h", "6/h"))
    admitted = {"old": 0, "new": 0}
    for _ in range(10):
        admitted["old"] += old.hit().allowed
        admitted["new"] += new.hit().allowed
    assert admitted == {"old": 4, "new": 6}
    old, new = (Limiter(key="supplier", concurrency=number, backend=store) for number in (1, 2))
    assert [bool(each.hit()) for each in (old, new, old, new, new)] == [True, True, False, True, False]


def test_every_mode_that_was_recorded_is_known_still() -> None:
    assert MODES == {0: "automatic", 1: "forced_open", 2: "forced_closed", 3: "disabled", 4: "shadow"}
