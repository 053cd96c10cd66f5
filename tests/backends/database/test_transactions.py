"""Whose transaction it is, what is left when it ends, and what becomes of a connection that breaks."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from django.db import Error, OperationalError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.test.utils import CaptureQueriesContext

from ratelimit_core import CircuitBreaker, Limiter
from ratelimit_core._util.clock import SECOND
from ratelimit_core.backends import Call
from ratelimit_core.backends.database import DatabaseBackend
from ratelimit_core.backends.database.sql import LEASES, RECORDS
from ratelimit_core.backends.database.threads import Threads
from ratelimit_core.errors import BackendContention, BackendError, ConfigurationError
from ratelimit_core.events import subscribe
from ratelimit_core.policies import ALLOWED, ANSWER, CONCURRENCY, FIXED_WINDOW, SLIDING_WINDOW, Policy
from ratelimit_core.store.fallback import Store
from ratelimit_core.testing import ManualClock
from tests import databases
from tests.circuit_breaker.fleet import fail, refused, succeed
from tests.conformance.test_stores import ask
from tests.servers import Process, eventually


def rows(alias: str, prefix: str) -> tuple[int, int]:
    """How many records and leases are stored."""
    with connections[alias].cursor() as cursor:
        cursor.execute(f"SELECT id FROM {RECORDS} WHERE prefix = %s", [prefix])
        ids = [values[0] for values in cursor.fetchall()]
        cursor.execute(f"SELECT record FROM {LEASES}")
        return len(ids), sum(values[0] in ids for values in cursor.fetchall())


def asked_in(backend: DatabaseBackend) -> BaseDatabaseWrapper:
    """The connection on which a backend asks that is asked outside of any transaction and by one at a time."""
    made = backend._executor.threads._connections
    return made[0] if made else connections[backend.alias]


def session(backend: DatabaseBackend) -> int:
    """The server's number for that connection."""

    def number(connection: BaseDatabaseWrapper) -> int:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()" if connection.vendor == "postgresql" else "SELECT CONNECTION_ID()")
            found: int = cursor.fetchone()[0]
            return found

    return backend._executor.threads.submit(number).result()


def cut(alias: str, number: int) -> None:
    """Have the server end a session, and wait until it has, where it can be waited for."""
    kill = "SELECT pg_terminate_backend(%s, 5000)" if connections[alias].vendor == "postgresql" else "KILL %s"
    with connections[f"{alias}-admin"].cursor() as cursor:
        cursor.execute(kill, [number])


def hits(backend: DatabaseBackend, count: int) -> list[int]:
    return [backend.apply([ask(FIXED_WINDOW, lease_id=str(i))])[0][ALLOWED] for i in range(count)]


def left(backend: DatabaseBackend) -> int:
    return backend.apply([ask(FIXED_WINDOW, op=1)])[0][ANSWER]


@contextmanager
def request_that_fails(alias: str) -> Iterator[None]:
    """A request's transaction that is rolled back."""
    with suppress(ZeroDivisionError), transaction.atomic(alias):
        yield
        raise ZeroDivisionError


def test_a_rollback_undoes_what_was_decided_on_a_shared_alias(backend: DatabaseBackend, alias: str) -> None:
    hits(backend, 1)
    with request_that_fails(alias):
        assert hits(backend, 2) == [1, 1]
        assert left(backend) == 0
    assert left(backend) == 2


def test_a_rollback_undoes_nothing_on_an_alias_of_its_own(backend: DatabaseBackend, tmp_path: Path, alias: str) -> None:
    with databases.sqlite(tmp_path, "request") as request, request_that_fails(request):
        hits(backend, 2)
    assert left(backend) == 1


def test_on_a_server_an_alias_of_its_own_may_be_the_same_database(server: str, prefix: str, clock: ManualClock) -> None:
    with databases.twin(server) as own:
        backend = DatabaseBackend(own, timeout=20, key_prefix=prefix, clock=clock)
        with request_that_fails(server):
            hits(backend, 2)
            rows(server, prefix)
        assert left(backend) == 1
        backend.clear()


def test_what_is_denied_leaves_nothing_behind(backend: DatabaseBackend, alias: str, prefix: str) -> None:
    places = [ask(CONCURRENCY, ("full", ""), lease_id=str(i)) for i in range(4)]
    assert [backend.apply([place])[0][ALLOWED] for place in places] == [1, 1, 1, 0]
    new = [ask(policy, ("new", "")) for policy in (FIXED_WINDOW, SLIDING_WINDOW)]
    before = rows(alias, prefix)
    assert before == (1, 3)
    assert backend.apply([*new, places[3]])[2][ALLOWED] == 0
    assert rows(alias, prefix) == before
    with transaction.atomic(alias):
        assert backend.apply([*new, places[3]])[2][ALLOWED] == 0
        assert left(backend) == 3
    assert rows(alias, prefix) == before


def test_a_request_goes_on_after_an_error_of_ours(backend: DatabaseBackend, alias: str, prefix: str) -> None:
    with transaction.atomic(alias):
        hits(backend, 1)
        broken = ask(SLIDING_WINDOW)._replace(config=(2**70,) * 3)
        with pytest.raises(BackendError):
            backend.apply([broken])
        hits(backend, 1)
    assert rows(alias, prefix) == (1, 0)
    assert left(backend) == 1


def test_what_was_committed_since_is_seen_in_an_older_transaction(
    mariadb: str, prefix: str, clock: ManualClock
) -> None:
    """Where reads are repeatable: MariaDB's own default, though not Django's."""
    with databases.twin(mariadb, isolation_level="repeatable read") as older:
        joined, other = (DatabaseBackend(each, timeout=20, key_prefix=prefix, clock=clock) for each in (older, mariadb))
        with transaction.atomic(older):
            rows(older, prefix)  # from here on it sees no more than there is now
            for lease_id in "abc":
                assert other.apply([ask(SLIDING_WINDOW, lease_id=lease_id), ask(FIXED_WINDOW)])[0][ALLOWED]
            verdicts = joined.apply([ask(SLIDING_WINDOW, lease_id="d"), ask(FIXED_WINDOW)])
            assert [verdict[ALLOWED] for verdict in verdicts] == [0, 0]
        other.clear()


@pytest.mark.parametrize("alias", ["sqlite", "mariadb"], indirect=True)
@pytest.mark.parametrize("policy", [FIXED_WINDOW, SLIDING_WINDOW, CONCURRENCY], ids=lambda policy: policy.name)
def test_a_decision_takes_five_statements(alias: str, prefix: str, policy: Policy) -> None:
    backend = DatabaseBackend(alias, timeout=20, key_prefix=prefix)
    config = {"limit": 100, "period": 3600 * SECOND, "spacing": SECOND, "timeout": 3600 * SECOND}
    most = 4 if alias.startswith("sqlite") and policy is FIXED_WINDOW else 5
    for number in range(5):
        call = ask(policy, lease_id=f"lease id {number}")
        event = tuple(
            99 if name == "spare_leases" else value for name, value in zip(policy.event, call.event, strict=True)
        )
        call = call._replace(event=event, config=tuple(config[name] for name in policy.config))
        with CaptureQueriesContext(asked_in(backend)) as queries:
            assert backend.apply([call])[0][ALLOWED]
        if number > 1:
            assert len(queries) == most, [query["sql"] for query in queries]
    backend.clear()


def test_several_records_take_no_more_statements_than_one(alias: str, prefix: str) -> None:
    backend = DatabaseBackend(alias, timeout=20, key_prefix=prefix)
    calls = [ask(FIXED_WINDOW, (name, "")) for name in "abcdefgh"]
    backend.apply(calls)
    with CaptureQueriesContext(asked_in(backend)) as queries:
        backend.apply(calls)
    assert len(queries) <= 5
    backend.clear()


def test_a_connection_that_was_cut_while_idle_is_replaced(server: str, prefix: str, clock: ManualClock) -> None:
    backend = DatabaseBackend(server, timeout=20, key_prefix=prefix, clock=clock)
    hits(backend, 1)
    for use in (lambda: hits(backend, 1), lambda: backend.keys(FIXED_WINDOW)):
        cut(server, session(backend))
        use()
    assert left(backend) == 1
    backend.clear()


def test_a_connection_that_is_cut_in_use_costs_one_error(server: str, prefix: str, clock: ManualClock) -> None:
    backend = DatabaseBackend(server, timeout=20, key_prefix=prefix, clock=clock)
    hits(backend, 1)
    outcomes: list[object] = []
    victim = session(backend)

    def waits() -> None:
        for _ in range(2):
            try:
                outcomes.append(hits(backend, 1))
            except BackendError as error:
                outcomes.append(error.__cause__)

    with transaction.atomic(server):
        hits(backend, 1)  # holds the record until the end of the transaction
        thread = threading.Thread(target=waits)
        thread.start()
        eventually(lambda: waiting(server, victim), every=0.2)  # MariaDB looks anew no more than ten times a second
        cut(server, victim)
        eventually(lambda: outcomes)
    thread.join()
    assert isinstance(outcomes[0], Error)
    assert outcomes[1:] == [[1]]
    assert left(backend) == 0
    backend.clear()


def waiting(alias: str, number: int) -> bool:
    """Whether a session waits for a lock."""
    asks = {
        "postgresql": "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'",
        "mysql": "SELECT count(*) FROM information_schema.innodb_trx"
        " WHERE trx_mysql_thread_id = %s AND trx_state = 'LOCK WAIT'",
    }
    with connections[f"{alias}-admin"].cursor() as cursor:
        cursor.execute(asks[connections[alias].vendor], [number])
        return bool(cursor.fetchone()[0])


def anybody_waits(alias: str) -> bool:
    """Whether any session of that database waits for a lock."""
    asks = {
        "postgresql": "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND wait_event_type = 'Lock'",
        "mysql": "SELECT count(*) FROM information_schema.processlist AS session"
        " LEFT JOIN information_schema.innodb_trx AS open ON open.trx_mysql_thread_id = session.id"
        " WHERE session.db = %s AND (open.trx_state = 'LOCK WAIT' OR session.state LIKE 'Waiting for table%%')",
    }
    with connections[f"{alias}-admin"].cursor() as cursor:
        cursor.execute(asks[connections[alias].vendor], [connections[alias].settings_dict["NAME"]])
        return bool(cursor.fetchone()[0])


def test_two_that_lock_each_others_records_both_get_through(server: str, prefix: str, clock: ManualClock) -> None:
    """Inside transactions of others the order of locks is not ours; who is rolled back for it begins again."""
    backend = DatabaseBackend(server, timeout=20, key_prefix=prefix, clock=clock)
    calls = {name: Call(FIXED_WINDOW, (name, ""), (0, 1), (1000, 3600 * SECOND)) for name in "abcdefgh"}
    backend.apply([calls["a"]])
    start = threading.Barrier(4)
    errors: list[Exception] = []

    def work(names: str) -> None:
        start.wait()
        try:
            for _ in range(50):
                backend.apply([calls[name] for name in names])
                backend.delete(FIXED_WINDOW, [(name, "") for name in names[:2]])
        except BackendError as error:
            errors.append(error)
        backend.close()

    threads = [threading.Thread(target=work, args=[names]) for names in ("abc", "cba", "bcd", "dab")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    backend.clear()


def test_transactions_of_others_join_without_losing_a_hit(alias: str, prefix: str, clock: ManualClock) -> None:
    backend = DatabaseBackend(alias, timeout=20, key_prefix=prefix, clock=clock)
    start = threading.Barrier(4)
    errors: list[Exception] = []

    def work() -> None:
        start.wait()
        try:
            for _ in range(20):
                with transaction.atomic(alias):
                    backend.incr("key", 60)
        except BackendError as error:
            errors.append(error)
        backend.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert backend.get_count("key") == 80
    backend.clear()


def test_who_is_interrupted_holds_nothing(alias: str, prefix: str, clock: ManualClock) -> None:
    backend = DatabaseBackend(alias, timeout=20, key_prefix=prefix, clock=clock)
    hits(backend, 1)

    def interrupted() -> int:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hits(DatabaseBackend(alias, timeout=20, key_prefix=prefix, clock=interrupted), 1)
    with databases.twin(alias) as other:
        assert hits(DatabaseBackend(other, timeout=20, key_prefix=prefix, clock=clock), 1) == [1]
    assert left(backend) == 1
    backend.clear()


def test_a_child_leaves_the_connections_of_its_parent_alone(alias: str, prefix: str) -> None:
    with Process.python(
        "-m", "tests.backends.database.forks", alias, prefix, environ=databases.child_environ(alias)
    ) as process:
        assert process.wait_for("counted").split()[1:] == ["4", "True"]
    DatabaseBackend(alias, timeout=20, key_prefix=prefix).clear()


def test_a_plain_call_in_an_event_loop_is_answered_too(backend: DatabaseBackend) -> None:
    async def main() -> tuple[list[int], int]:
        return hits(backend, 4), len(backend.keys(FIXED_WINDOW))

    assert asyncio.run(main()) == ([1, 1, 1, 0], 1)


def test_a_thread_that_ends_leaves_no_connection_behind(alias: str, prefix: str) -> None:
    backend = DatabaseBackend(alias, timeout=20, key_prefix=prefix)
    thread = threading.Thread(target=backend.incr, args=["key", 60])
    thread.start()
    thread.join()
    gc.collect()  # it would complain now
    assert backend.incr("key", 60) == 2
    backend.clear()


def test_a_machine_that_has_had_no_threads_to_give_is_not_held_against_it(
    sqlite: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    threads, done = Threads(sqlite, max_threads=2), []
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", none_left)
        for _ in range(3):
            with pytest.raises(RuntimeError):
                threads.submit(lambda connection: done.append("what nobody waits for"))
    assert threads.submit(lambda connection: connection.alias).result(timeout=10) == sqlite
    assert done == []
    threads.stop()


@pytest.mark.parametrize("age", [0, None])
def test_connections_of_its_own_follow_the_settings(
    alias: str, prefix: str, clock: ManualClock, age: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connections.settings[alias], "CONN_MAX_AGE", age)
    backend = DatabaseBackend(alias, timeout=20, key_prefix=prefix, clock=clock)

    async def main() -> tuple[list[int], list[object]]:
        verdicts = await asyncio.gather(*[backend.aapply([ask(FIXED_WINDOW)]) for _ in range(20)])
        opened = [asked.connection for asked in backend._executor.threads._connections]
        return sorted(verdict[0][ALLOWED] for verdict in verdicts), opened

    verdicts, opened = asyncio.run(main())
    assert verdicts == [0] * 17 + [1] * 3
    assert 1 <= len(opened) <= 8
    # A thread may have found its first question answered by another one, and not have connected.
    assert opened == [None] * len(opened) if age == 0 else any(opened)
    backend.clear()
    backend.close()
    gc.collect()  # whatever was not closed would complain now


# A transaction of the caller's that is broken


def answers_locally(backend: DatabaseBackend) -> bool:
    limiter = Limiter("1000/h", key="name", backend=backend)
    return limiter.hit().local


@pytest.fixture
def changes() -> Iterator[list[object]]:
    """What subscribers are told of the store."""
    told: list[object] = []
    unsubscribe = subscribe(told.append)
    yield told
    unsubscribe()


def test_a_broken_transaction_does_not_make_the_store_away(
    alias: str, prefix: str, clock: ManualClock, changes: list[object]
) -> None:
    backend = DatabaseBackend(alias, timeout=20, key_prefix=prefix, clock=clock)
    assert not answers_locally(backend)
    with transaction.atomic(alias):
        transaction.set_rollback(True, using=alias)
        for _ in range(6):
            assert answers_locally(backend)
        with pytest.raises(BackendError, match="a separate alias"):
            backend.entries(("name", "history"))
    assert not answers_locally(backend)
    assert changes == []
    status = backend.get_circuit_breaker_status()
    assert status is not None
    assert (status["state"], status["failure_count"]) == ("closed", 0)
    backend.clear()


def test_an_aborted_transaction_neither(
    postgresql: str, prefix: str, clock: ManualClock, changes: list[object]
) -> None:
    backend = DatabaseBackend(postgresql, timeout=20, key_prefix=prefix, clock=clock)
    with suppress(Error), transaction.atomic(postgresql):
        with connections[postgresql].cursor() as cursor, suppress(Error):
            cursor.execute("SELECT 1 / 0")
        assert answers_locally(backend)
        with pytest.raises(BackendError) as caught:
            backend.entries(("name", "history"))
        assert not caught.value.is_outage
    assert not answers_locally(backend)
    assert changes == []
    backend.clear()


def test_a_transaction_of_sqlite_that_has_read_neither(
    sqlite: str, prefix: str, clock: ManualClock, changes: list[object]
) -> None:
    backend = DatabaseBackend(sqlite, key_prefix=prefix, clock=clock)
    with databases.twin(sqlite) as twin:
        other = DatabaseBackend(twin, key_prefix=prefix, clock=clock)
        with transaction.atomic(sqlite):
            rows(sqlite, prefix)
            hits(other, 1)
            assert answers_locally(backend)
            rows(sqlite, prefix)  # the transaction goes on
        other.close()
    assert not answers_locally(backend)
    assert changes == []
    backend.clear()


# A database that hangs


@pytest.fixture(params=["postgresql", "mysql"])
def hung(request: pytest.FixtureRequest) -> Iterator[str]:
    """An alias of a server that takes connections and then says nothing."""
    databases.setup()
    silent = socket.create_server(("127.0.0.1", 0))
    with silent, databases.alias(f"hung-{request.param}", request.param, silent.getsockname()[1]) as name:
        yield name


@pytest.mark.timed
def test_a_server_that_hangs_holds_nobody_up(hung: str, clock: ManualClock) -> None:
    backend = DatabaseBackend(hung)
    store = Store(backend, clock=clock)

    async def asked() -> None:
        await backend.aapply_unguarded([ask(FIXED_WINDOW)])

    for question in (lambda: store.apply([ask(FIXED_WINDOW)]), lambda: asyncio.run(asked())):
        began = time.monotonic()
        with pytest.raises(BackendError, match=r"no answer within 0\.3 s"):
            question()
        assert 0.25 < time.monotonic() - began < 1.0
    began = time.monotonic()
    for _ in range(100):
        with pytest.raises(BackendError, match="unavailable"):
            store.apply([ask(FIXED_WINDOW)])
    assert time.monotonic() - began < 0.25
    clock.advance(6)
    began = time.monotonic()
    for _ in range(12):  # more than there are threads: none of them is back yet
        with pytest.raises(BackendError) as caught:
            backend.apply_unguarded([ask(FIXED_WINDOW)])
        assert caught.value.is_outage
    assert time.monotonic() - began < 12 * 0.3 + 1.0


def test_a_program_ends_though_its_database_hangs(hung: str) -> None:
    program = f"""
from tests import databases
databases.setup()
from ratelimit_core import BackendError, Limiter
from ratelimit_core.backends import DatabaseBackend
print(Limiter("1/h", key="k", backend=DatabaseBackend({hung!r})).hit().local)
"""
    with Process.python("-c", program, environ=databases.child_environ(hung)) as process:
        process.wait_for("True")
        assert process.popen.wait(10) == 0


def test_our_time_limit_is_not_the_callers(server: str, prefix: str, clock: ManualClock) -> None:
    """A statement of his, in his transaction, may take as long as it did."""
    backend = DatabaseBackend(server, timeout=0.5, key_prefix=prefix, clock=clock)
    naps = {"postgresql": "SELECT pg_sleep(0.6)", "mysql": "SELECT SLEEP(0.6)"}
    with transaction.atomic(server), connections[server].cursor() as cursor:
        if connections[server].vendor == "postgresql":
            cursor.execute("SET LOCAL statement_timeout = '7s'; SET LOCAL lock_timeout = '5s'")
        for turn in range(4):  # the last is denied
            backend.apply([ask(FIXED_WINDOW)])
            if turn in (0, 3):
                cursor.execute(naps[connections[server].vendor])
            if connections[server].vendor == "postgresql":
                cursor.execute("SELECT current_setting('statement_timeout'), current_setting('lock_timeout')")
                assert cursor.fetchone() == ("7s", "5s")
    assert left(DatabaseBackend(server, timeout=20, key_prefix=prefix, clock=clock)) == 0


# A record that others hold


@contextmanager
def held(alias: str, prefix: str, clock: ManualClock, **options: Any) -> Iterator[DatabaseBackend]:
    """Somebody holds a record, in a transaction that does not end; a backend to ask for it."""
    with databases.twin(alias) as other, transaction.atomic(other):
        hits(DatabaseBackend(other, timeout=20, key_prefix=prefix, clock=clock), 1)
        backend = DatabaseBackend(alias, key_prefix=prefix, clock=clock, **options)
        yield backend
        eventually(lambda: not anybody_waits(alias), every=0.2)  # who gave up did; the server may not have yet
    assert left(DatabaseBackend(alias, timeout=20, key_prefix=prefix, clock=clock)) == 2, "no other call got through"
    backend.clear()


@pytest.mark.timed
def test_who_holds_a_record_makes_others_wait_not_for_ever_and_is_no_store_that_is_away(
    server: str, prefix: str, clock: ManualClock, changes: list[object]
) -> None:
    with held(server, prefix, clock, timeout=1) as backend:
        began = time.monotonic()
        with pytest.raises(BackendContention, match="other sessions hold these records") as caught:
            hits(backend, 1)
        assert 0.5 < time.monotonic() - began < 1.0
        assert (caught.value.is_outage, caught.value.retry_after) == (False, 1)
        with pytest.raises(BackendContention):
            Store(backend, clock=clock).apply([ask(FIXED_WINDOW)])
        assert not answers_locally(backend), "a record that nobody holds"
        status = backend.get_circuit_breaker_status()
        assert status is not None
        assert (status["state"], status["failure_count"]) == ("closed", 0)
    assert changes == []


def test_a_breaker_whose_record_is_held_opens_in_this_process(server: str, prefix: str, clock: ManualClock) -> None:
    backend = DatabaseBackend(server, key_prefix=prefix, clock=clock)
    breaker = CircuitBreaker("held", failure_threshold=2, cache_ttl=0, backend=backend)
    succeed(breaker)
    with databases.twin(server) as other, transaction.atomic(other), connections[other].cursor() as cursor:
        cursor.execute(f"SELECT 1 FROM {RECORDS} WHERE prefix = %s FOR UPDATE", [prefix])
        fail(breaker, 2)
        refused(breaker)
    backend.clear()


@pytest.mark.timed
def test_nor_is_it_for_who_asks_in_a_transaction_which_goes_on(server: str, prefix: str, clock: ManualClock) -> None:
    with held(server, prefix, clock, timeout=1) as backend, transaction.atomic(server):
        began = time.monotonic()
        with pytest.raises(BackendContention):
            hits(backend, 1)
        assert time.monotonic() - began < 1.5
        rows(server, prefix)
        assert backend.apply([ask(FIXED_WINDOW, ("another", ""))])[0][ALLOWED]


@pytest.mark.parametrize("way", ["threads", "event loop"])
@pytest.mark.timed
def test_a_crowd_at_a_record_is_no_store_that_is_away(
    server: str, prefix: str, clock: ManualClock, changes: list[object], way: str
) -> None:
    """Who asks waits for one of few threads, which wait for the record."""
    told: list[object] = []

    async def everybody(store: Store) -> None:
        told.extend(
            await asyncio.gather(*[store.aapply([ask(FIXED_WINDOW)]) for _ in range(24)], return_exceptions=True)
        )

    with held(server, prefix, clock, timeout=2) as backend:
        store = Store(backend, clock=clock)
        if way == "threads":
            with ThreadPoolExecutor(24) as pool:
                asked = [pool.submit(store.apply, [ask(FIXED_WINDOW)]) for _ in range(24)]
            told += [each.exception() for each in asked]
        else:
            asyncio.run(everybody(store))
        assert [type(error) for error in told] == [BackendContention] * 24
        assert all(
            "other sessions hold these records" in str(error) or "too many calls" in str(error) for error in told
        )
        assert sum("other sessions hold these records" in str(error) for error in told) >= 8, (
            "as many as there are threads"
        )
        assert store.available
    assert changes == []


@pytest.mark.timed
def test_who_locks_the_table_makes_the_store_away(server: str, prefix: str, clock: ManualClock) -> None:
    """Everybody would have to wait, at every call."""
    backend = DatabaseBackend(server, timeout=1, key_prefix=prefix, clock=clock)
    hits(backend, 1)
    with databases.twin(server) as other, ExitStack() as stack:
        if connections[other].vendor == "postgresql":
            stack.enter_context(transaction.atomic(other))
        cursor = stack.enter_context(connections[other].cursor())
        postgresql, mariadb = f"LOCK TABLE {RECORDS}", f"LOCK TABLES {RECORDS} WRITE"
        cursor.execute(postgresql if connections[other].vendor == "postgresql" else mariadb)
        with pytest.raises(BackendError) as caught:
            hits(backend, 1)
        assert type(caught.value) is BackendError
        assert caught.value.is_outage
        eventually(lambda: not anybody_waits(server), every=0.2)
    assert left(DatabaseBackend(server, timeout=20, key_prefix=prefix, clock=clock)) == 2
    backend.clear()


def test_on_sqlite_who_writes_makes_the_store_away(sqlite: str, prefix: str, clock: ManualClock) -> None:
    """The one lock is the whole store's."""
    with databases.twin(sqlite, timeout=0.1) as hasty, transaction.atomic(sqlite):
        hits(DatabaseBackend(sqlite, key_prefix=prefix, clock=clock), 1)
        with pytest.raises(BackendError, match="locked") as caught:
            hits(DatabaseBackend(hasty, key_prefix=prefix, clock=clock), 1)
        assert type(caught.value) is BackendError
        assert caught.value.is_outage
    DatabaseBackend(sqlite, key_prefix=prefix, clock=clock).clear()


@pytest.mark.parametrize(("code", "attempts"), [(1213, 5), (1020, 5), (1205, 1), (1969, 1)])
def test_who_loses_every_time_says_that_others_are_at_it(
    server: str, prefix: str, code: int, attempts: int, changes: list[object]
) -> None:
    asked: list[int] = []

    def loses() -> int:
        asked.append(code)
        raise OperationalError(code, "Deadlock found")

    backend = DatabaseBackend(server, timeout=20, key_prefix=prefix, clock=loses)
    with pytest.raises(BackendContention, match="Deadlock found"):
        hits(backend, 1)
    assert len(asked) == attempts
    backend.clear()


@pytest.mark.parametrize("timeout", [0, -1, True, None, "1", float("nan"), 1e9])
def test_a_wrong_timeout_is_refused(sqlite: str, timeout: Any) -> None:
    with pytest.raises(ConfigurationError, match="timeout="):
        DatabaseBackend(sqlite, timeout=timeout)
