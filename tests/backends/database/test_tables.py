"""What is stored and for how long: names, tables, sweeping, pruning."""

from __future__ import annotations

import io

import pytest
from django.apps import apps
from django.core.management import CommandError, call_command
from django.db import connections, transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ratelimit_core import CircuitBreaker
from ratelimit_core._util.clock import SECOND
from ratelimit_core.backends import Call
from ratelimit_core.backends.database import DatabaseBackend
from ratelimit_core.backends.database.sql import LEASES, RECORDS, collation_safe, row
from ratelimit_core.errors import BackendError, ConfigurationError
from ratelimit_core.policies import (
    ALLOWED,
    ANSWER,
    BREAKER,
    CONCURRENCY,
    COUNTER,
    FIXED_WINDOW,
    POLICIES,
    SLIDING_WINDOW,
)
from ratelimit_core.testing import ManualClock
from tests import databases
from tests.conformance.profiles import examples
from tests.conformance.test_stores import AWKWARD, ask, texts, use

from .test_transactions import rows

DAY = 24 * 3600
EACH = [policy for policy in POLICIES.values() if policy is not COUNTER]  # a counter is used by a name of its own


def test_the_migrations_are_what_the_models_say() -> None:
    databases.setup()
    call_command("makemigrations", "ratelimit_core", check=True, dry_run=True, verbosity=0, skip_checks=True)


def test_the_models_read_what_the_backend_writes(backend: DatabaseBackend, alias: str, prefix: str) -> None:
    backend.apply([use(policy, ("a name", "é")) for policy in EACH])
    backend.append(("a name", "history"), "entry", keep=3, seconds=60)
    record, lease = (apps.get_model("ratelimit_core", name) for name in ("Record", "Lease"))
    stored = {each.policy: each for each in record._default_manager.using(alias).filter(prefix=prefix)}
    assert {*stored} == {*(policy.name for policy in EACH), "journal"}
    assert {(each.name, each.qualifier) for each in stored.values()} == {
        ("a%20name", "%C3%A9"),
        ("a%20name", "history"),
    }
    assert stored["fixed_window"].data.split()[1] == "1"
    assert stored["journal"].data == '["entry"]'
    log = lease._default_manager.using(alias).get(record=stored["sliding_window"].id)
    assert (log.owner, log.part) == ("lease_id", 1)
    with connections[alias].cursor() as cursor:
        for model in (record, lease):
            columns = connections[alias].introspection.get_table_description(cursor, model._meta.db_table)
            assert [column.name for column in columns] == [field.column for field in model._meta.local_concrete_fields]


@pytest.mark.parametrize("name", [*AWKWARD, "a", "A", "ß", "ss", "a ", "x" * 300, "X" * 300])
def test_lease_ids_and_prefixes_are_told_apart_as_they_are_written(alias: str, clock: ManualClock, name: str) -> None:
    others = ["b", "B", "b ", name.swapcase() + "x"]
    backends = [DatabaseBackend(alias, timeout=20, key_prefix=each, clock=clock) for each in (name, *others)]
    for each in backends:
        each.apply([ask(CONCURRENCY, lease_id=name)])
        each.apply([ask(CONCURRENCY, lease_id=others[-1])])
        assert each.apply([ask(CONCURRENCY, op=2, lease_id=name)])[0][ANSWER] == 2
    backends[0].clear()
    assert [len(each.keys(CONCURRENCY)) for each in backends] == [0, 1, 1, 1, 1]
    for each in backends:
        each.clear()


@settings(examples(25), suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=5, unique=True), texts)
def test_any_text_names_a_record_and_can_be_noted(
    backend: DatabaseBackend, keys: list[tuple[str, str]], entry: str
) -> None:
    for key in keys:
        backend.apply([ask(FIXED_WINDOW, key), ask(CONCURRENCY, key, lease_id=key[0])])
        backend.append(key, entry, keep=2, seconds=60)
    assert sorted(backend.keys(FIXED_WINDOW)) == sorted(backend.keys(CONCURRENCY)) == sorted(keys)
    assert [backend.entries(key) for key in keys] == [[entry]] * len(keys)
    backend.clear()


def test_a_megabyte_of_name_lease_id_and_entry(backend: DatabaseBackend) -> None:
    long = "é{}\0" * 300_000
    backend.apply([ask(CONCURRENCY, (long, long), lease_id=long)])
    assert backend.apply([ask(CONCURRENCY, (long, long), op=2, lease_id=long)])[0][ANSWER] == 3
    backend.append((long, long), long, keep=1, seconds=60)
    assert backend.entries((long, long)) == [long]


def test_a_journal_keeps_the_newest_until_it_expires(backend: DatabaseBackend, clock: ManualClock) -> None:
    key = ("name", "history")
    assert backend.entries(key) == []
    for entry in "abc":
        backend.append(key, entry, keep=2, seconds=60)
        clock.advance(30)
    assert backend.entries(key) == ["c", "b"]
    clock.advance(30)
    assert backend.entries(key) == []
    backend.append(key, "d", keep=2, seconds=60)
    assert backend.entries(key) == ["d"]
    backend.clear()
    assert backend.entries(key) == []


def test_a_record_of_another_version_counts_as_none(backend: DatabaseBackend, alias: str) -> None:
    for _ in range(2):
        assert backend.apply([ask(FIXED_WINDOW)])[0][ALLOWED]
    with connections[alias].cursor() as cursor:
        cursor.execute(f"UPDATE {RECORDS} SET version = 9, data = 'what is this' WHERE id = %s", [_id(backend)])
    assert backend.apply([ask(FIXED_WINDOW)])[0][ANSWER] == 2


def _id(backend: DatabaseBackend) -> str:
    return row(backend._prefix, FIXED_WINDOW.name, ("name", "")).id


def test_a_large_cost_is_as_many_leases(backend: DatabaseBackend, alias: str, prefix: str) -> None:
    config = {"limit": 2500, "period": 60 * SECOND, "spacing": SECOND}
    event = dict.fromkeys(SLIDING_WINDOW.event, 0) | {"cost": 1200, "spare_leases": 1300}
    call = Call(SLIDING_WINDOW, ("n", ""), tuple(event.values()), tuple(config.values()))
    answers = [backend.apply([call._replace(lease_id=str(i))])[0] for i in range(3)]
    assert [(each[ALLOWED], each[ANSWER]) for each in answers] == [(1, 1300), (1, 100), (0, 100)]
    assert rows(alias, prefix) == (1, 2400)


# What has ended


def test_each_newcomer_sweeps_out_two_that_have_ended(
    backend: DatabaseBackend, alias: str, prefix: str, clock: ManualClock
) -> None:
    emptied(alias)
    for number in range(10):
        backend.apply([ask(FIXED_WINDOW, (str(number), "")), ask(SLIDING_WINDOW, (str(number), ""))])
    assert rows(alias, prefix) == (20, 10)
    clock.advance(DAY)
    for number in range(4):
        backend.apply([ask(FIXED_WINDOW, (f"new {number}", ""))])
    assert rows(alias, prefix)[0] == 20 + 4 - 8
    for number in range(6):
        backend.apply([ask(FIXED_WINDOW, (f"new {number}", ""))])
    for number in range(10):
        backend.apply([ask(FIXED_WINDOW, (f"newer {number}", ""))])
    assert rows(alias, prefix) == (16, 0)


def emptied(alias: str) -> None:
    """Nothing is left of other tests, whose clocks may be ahead of this one's."""
    with connections[alias].cursor() as cursor:
        cursor.execute(f"DELETE FROM {LEASES}")
        cursor.execute(f"DELETE FROM {RECORDS}")


def test_pruning_deletes_what_has_ended_and_nothing_else(
    backend: DatabaseBackend, alias: str, prefix: str, clock: ManualClock
) -> None:
    emptied(alias)
    for number in range(7):
        backend.apply([use(policy, (f"old {number}", "")) for policy in EACH])
    backend.append(("old", "history"), "entry", keep=3, seconds=60)
    clock.advance(DAY)
    for policy in EACH:
        backend.apply([use(policy, ("new", ""))])
    before = {policy: backend.keys(policy) for policy in EACH}
    gone = [backend.prune(5) for _ in range(12)]
    assert all(records <= 5 for records, _ in gone)
    assert gone[-1] == (0, 0)
    assert rows(alias, prefix)[0] == len(EACH)
    assert {policy: backend.keys(policy) for policy in EACH} == before


@pytest.mark.parametrize("asked_before", [0, 3], ids=["at first", "by functions, where there are"])
def test_what_was_to_last_for_ever_ends_like_others_once_somebody_has_ended_it(
    backend: DatabaseBackend, alias: str, prefix: str, clock: ManualClock, asked_before: int
) -> None:
    emptied(alias)
    for _ in range(asked_before):
        backend.apply([use(BREAKER)])
    breaker = CircuitBreaker("name", backend=backend, clock=clock, probe_timeout=9 * DAY)
    breaker.force_open()
    clock.advance(1000 * DAY)
    assert backend.prune()[0] == 1, "the history"
    assert breaker.state == "open"
    breaker.clear_override()
    clock.advance(10 * DAY)
    assert backend.prune() == (0, 0)
    clock.advance(30 * DAY)
    assert backend.prune() == (1, 0)
    assert backend.keys(BREAKER) == []


def test_pruning_passes_over_what_somebody_is_writing(server: str, prefix: str, clock: ManualClock) -> None:
    emptied(server)
    backend = DatabaseBackend(server, timeout=20, key_prefix=prefix, clock=clock)
    for name in "ab":
        backend.apply([ask(FIXED_WINDOW, (name, ""))])
    clock.advance(DAY)
    with databases.twin(server) as other, transaction.atomic(server):
        backend.apply([ask(FIXED_WINDOW, ("a", ""))])
        assert DatabaseBackend(other, timeout=20, key_prefix=prefix, clock=clock).prune() == (1, 0)
    assert backend.keys(FIXED_WINDOW) == [("a", "")]
    backend.clear()


def test_the_command_prunes_in_batches_and_says_what_it_deleted(alias: str, prefix: str, clock: ManualClock) -> None:
    emptied(alias)
    backend = DatabaseBackend(alias, timeout=20, key_prefix=prefix, clock=lambda: clock.now - DAY * SECOND * 10_000)
    for number in range(5):
        backend.apply([ask(SLIDING_WINDOW, (str(number), ""))])
    written = io.StringIO()
    call_command("ratelimit_prune", database=alias, batch=2, stdout=written)
    assert written.getvalue() == f"{alias}: deleted 5 records with 5 leases\n"
    assert rows(alias, prefix) == (0, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"database": "nowhere"}, r"database='nowhere'.*alias of DATABASES"),
        ({"batch": 0}, "--batch=0 should be 1 or more"),
    ],
)
def test_the_command_says_what_is_wrong(sqlite: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(CommandError, match=message):
        call_command("ratelimit_prune", **{"database": sqlite, **options})


# What is wrong


def test_an_alias_that_does_not_exist_is_refused() -> None:
    databases.setup()
    with pytest.raises(ConfigurationError, match=r"database='nowhere'.*give an alias of DATABASES"):
        DatabaseBackend("nowhere")


def test_tables_that_do_not_exist_are_named_with_what_makes_them(alias: str) -> None:
    """On PostgreSQL and MariaDB in the server's own database, on SQLite in an empty one."""
    with databases.unmigrated(alias) as empty, pytest.raises(BackendError, match=f"migrate --database {empty}"):
        DatabaseBackend(empty, timeout=20).apply([ask(FIXED_WINDOW)])


def test_prefixes_that_differ_in_capitals_only_are_stored_apart() -> None:
    assert collation_safe("a-prefix") == "a-prefix"
    assert len({collation_safe(text) for text in ("a", "A", "", "é", "É", "x" * 300, "X" * 300)}) == 7
    assert all(collation_safe(text) == collation_safe(text).lower() or "%" in collation_safe(text) for text in AWKWARD)


def test_leases_go_with_their_record(backend: DatabaseBackend, alias: str, prefix: str) -> None:
    for name in "abc":
        backend.apply([ask(SLIDING_WINDOW, (name, ""))])
    backend.delete(SLIDING_WINDOW, [("a", ""), ("c", ""), ("never", "stored")])
    assert rows(alias, prefix) == (1, 1)
    backend.clear()
    with connections[alias].cursor() as cursor:
        cursor.execute(f"SELECT COUNT(*) FROM {LEASES} WHERE record NOT IN (SELECT id FROM {RECORDS})")
        assert cursor.fetchone() == (0,)
