"""Policies as functions of PostgreSQL's: where there are any, and what is done where there are none."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import hypothesis
import pytest
from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from ratelimit_core._util.clock import SECOND
from ratelimit_core.backends import Call
from ratelimit_core.backends.database import DatabaseBackend
from ratelimit_core.backends.database import functions as functions_module
from ratelimit_core.backends.database.sql import RECORDS
from ratelimit_core.errors import BackendError
from ratelimit_core.policies import (
    ALLOWED,
    ANSWER,
    COUNTER,
    FIXED_WINDOW,
    POLICIES,
    RECORD,
    SLIDING_WINDOW,
    TOKEN_BUCKET,
    Policy,
)
from ratelimit_core.testing import ManualClock
from tests import databases
from tests.conformance.participants import InDatabase
from tests.conformance.profiles import examples
from tests.conformance.scenarios import Config, Step, scenarios
from tests.conformance.test_agreement import play
from tests.conformance.test_stores import ask, use
from tests.servers import eventually

from .test_tables import DAY, emptied
from .test_transactions import asked_in, hits, left, rows, waiting

every_policy = pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)


def in_its_session(backend: DatabaseBackend, *statements: str) -> list[tuple[object, ...]]:
    """What the last of ``statements`` finds."""

    def execute(connection: BaseDatabaseWrapper) -> list[tuple[object, ...]]:
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []

    return backend._executor.threads.submit(execute).result()


def functions(backend: DatabaseBackend) -> set[str]:
    """Those of its one session, by policy."""
    found = in_its_session(backend, "SELECT proname FROM pg_proc WHERE pronamespace = pg_my_temp_schema()")
    return {str(name).rpartition("_")[0] for (name,) in found}


@contextmanager
def statements(backend: DatabaseBackend) -> Iterator[Callable[[], int]]:
    """How many its one session was sent since; libpq says."""
    libpq = asked_in(backend).connection.pgconn
    with tempfile.TemporaryFile("w+") as log:

        def sent() -> int:
            log.seek(0)
            return sum(line.split("\t")[3] in ("Query", "Execute") for line in log if line.count("\t") > 2)

        libpq.trace(log.fileno())
        yield sent
        libpq.untrace()


@pytest.fixture
def backend(postgresql: str, prefix: str, clock: ManualClock) -> Iterator[DatabaseBackend]:
    backend = DatabaseBackend(postgresql, timeout=20, key_prefix=prefix, clock=clock)
    yield backend
    backend.clear()
    backend.close()


@every_policy
def test_a_decision_is_one_statement_from_the_third_in_a_session(backend: DatabaseBackend, policy: Policy) -> None:
    for _ in range(2):
        backend.apply([use(policy)])
    assert functions(backend) == {policy.name}
    with statements(backend) as sent:
        backend.apply([use(policy)])
        backend.apply([use(policy, ("new", ""))])
        assert sent() == 2
    assert sorted(backend.keys(policy)) == [("name", ""), ("new", "")]


def test_so_are_several_together_denied_or_not(backend: DatabaseBackend, postgresql: str, prefix: str) -> None:
    calls = [use(policy, ("name", f"it's \\ {policy.name}")) for policy in POLICIES.values() if policy is not COUNTER]
    for _ in range(2):
        backend.apply(calls)
    with statements(backend) as sent:
        assert all(verdict[ALLOWED] for verdict in backend.apply(calls[::-1]))
        before = rows(postgresql, prefix)
        denied = backend.apply([ask(FIXED_WINDOW, ("new", "")), *calls])
        assert sorted({verdict[ALLOWED] for verdict in denied}) == [0, 1]
        assert sent() == 2
    assert functions(backend) == {call.policy.name for call in calls} | {"apply_together"}
    assert rows(postgresql, prefix) == before


def test_so_are_several_batches(backend: DatabaseBackend, postgresql: str, prefix: str) -> None:
    batches = [[ask(policy, (f"{i}", ""), lease_id=f"{i}") for policy in (TOKEN_BUCKET, COUNTER)] for i in range(64)]
    for _ in range(2):
        backend.apply_each(batches)
    with statements(backend) as sent:
        assert len(backend.apply_each(batches, 40)) == 64
        assert sent() == 1
    assert functions(backend) == {TOKEN_BUCKET.name, COUNTER.name, "apply_each"}
    assert rows(postgresql, prefix)[0] == 128


def test_the_servers_clock_is_read_once_the_record_is_held(postgresql: str, prefix: str) -> None:
    backend = DatabaseBackend(postgresql, timeout=20, key_prefix=prefix)
    call = Call(TOKEN_BUCKET, ("name", ""), (0, 1, 0, 0), (1, 1000, 1), "lease_id")
    backend.apply([call])
    backend.apply([call])
    waits = in_its_session(backend, "SELECT pg_backend_pid()")[0][0]
    assert isinstance(waits, int)
    with (
        ThreadPoolExecutor(1) as pool,
        databases.twin(postgresql) as other,
        transaction.atomic(other),
        connections[other].cursor() as cursor,
    ):
        cursor.execute(f"SELECT 1 FROM {RECORDS} WHERE prefix = %s FOR UPDATE", [prefix])
        asked = pool.submit(backend.apply, [call])
        eventually(lambda: waiting(postgresql, waits))
        cursor.execute("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")
        released = cursor.fetchone()[0]
    assert asked.result()[0][RECORD + 1] >= released
    backend.clear()


@pytest.mark.parametrize("change", ["DISCARD ALL", "DROP FUNCTION"])
def test_functions_that_are_gone_are_made_again_and_the_question_is_put_once_more(
    backend: DatabaseBackend, change: str
) -> None:
    hits(backend, 2)
    if change == "DROP FUNCTION":  # there is still a schema
        made = "SELECT oid::regprocedure FROM pg_proc WHERE pronamespace = pg_my_temp_schema()"
        change = "DROP FUNCTION " + ", ".join(str(name) for (name,) in in_its_session(backend, made))
    in_its_session(backend, change)
    assert functions(backend) == set()
    assert hits(backend, 2) == [1, 0]
    assert functions(backend) == {"fixed_window"}


def test_none_are_made_in_sessions_that_end_with_each_question(
    backend: DatabaseBackend, postgresql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connections.settings[postgresql], "CONN_MAX_AGE", 0)
    assert hits(backend, 4) == [1, 1, 1, 0]
    assert backend._sessions._made == {}


def test_who_may_make_none_is_answered_all_the_same(backend: DatabaseBackend, postgresql: str) -> None:
    hits(backend, 1)
    with connections[f"{postgresql}-admin"].cursor() as cursor:
        cursor.execute("CREATE ROLE nobody_special")
    try:
        in_its_session(
            backend,
            "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO nobody_special",
            "GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO nobody_special",
            "REVOKE TEMPORARY ON DATABASE " + connections[postgresql].settings_dict["NAME"] + " FROM PUBLIC",
            "SET ROLE nobody_special",
        )
        assert hits(backend, 3) == [1, 1, 0]
        assert functions(backend) == set()
    finally:
        in_its_session(
            backend,
            "RESET ROLE",
            "GRANT TEMPORARY ON DATABASE " + connections[postgresql].settings_dict["NAME"] + " TO PUBLIC",
            "DROP OWNED BY nobody_special",
            "DROP ROLE nobody_special",
        )


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_where_transactions_see_the_past_decisions_say_how_they_begin(
    postgresql: str, prefix: str, clock: ManualClock, level: str
) -> None:
    option = "-c default_transaction_isolation=" + level.replace(" ", "\\ ")
    with databases.twin(postgresql, options=option) as strict:
        backend = DatabaseBackend(strict, timeout=20, key_prefix=prefix, clock=clock)
        assert hits(backend, 4) == [1, 1, 1, 0]
        assert functions(backend) == set()
        backend.clear()
        backend.close()


def test_settings_of_the_session_are_left_as_they_were(backend: DatabaseBackend) -> None:
    names = ("lock_timeout", "statement_timeout", "synchronous_commit", "transaction_isolation")
    asks = "SELECT " + ", ".join(f"current_setting('{name}')" for name in names)
    hits(backend, 2)
    in_its_session(backend, "SET lock_timeout = '7s'")
    before = in_its_session(backend, asks)
    hits(backend, 1)
    assert in_its_session(backend, asks) == before


def test_what_is_denied_or_only_looked_at_makes_no_record(
    backend: DatabaseBackend, postgresql: str, prefix: str
) -> None:
    hits(backend, 2)
    assert backend.apply([ask(FIXED_WINDOW, ("new", ""), op=1)])[0][ALLOWED]
    assert backend.apply([Call(FIXED_WINDOW, ("newer", ""), (0, 2), (1, SECOND))])[0][ALLOWED] == 0
    assert rows(postgresql, prefix) == (1, 0)


def test_each_newcomer_sweeps_out_two_that_have_ended(
    backend: DatabaseBackend, postgresql: str, prefix: str, clock: ManualClock
) -> None:
    emptied(postgresql)
    hits(backend, 2)
    for number in range(9):
        backend.apply([ask(SLIDING_WINDOW, (str(number), ""))])
    assert rows(postgresql, prefix) == (10, 9)
    clock.advance(DAY)
    for number in range(3):
        backend.apply([ask(FIXED_WINDOW, (f"new {number}", ""))])
    assert rows(postgresql, prefix)[0] == 10 + 3 - 6


@pytest.mark.timed
def test_what_takes_too_long_is_not_done_after_all(postgresql: str, prefix: str, clock: ManualClock) -> None:
    """However it came about: here, by a trigger that naps."""
    backend = DatabaseBackend(postgresql, timeout=2, key_prefix=prefix, clock=clock)
    hits(backend, 2)
    in_its_session(
        backend,
        "CREATE FUNCTION pg_temp.nap() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_sleep(1.65); RETURN NEW; END $$",
        "CREATE TRIGGER nap BEFORE INSERT ON ratelimit_core_record FOR EACH ROW EXECUTE FUNCTION pg_temp.nap()",
    )
    try:
        with pytest.raises(BackendError, match="the call took longer than"):
            backend.apply([ask(FIXED_WINDOW, ("new", ""))])
    finally:
        in_its_session(backend, "DROP TRIGGER nap ON ratelimit_core_record")
    assert left(backend) == 1
    assert backend.apply([ask(FIXED_WINDOW, ("new", ""), op=1)])[0][ANSWER] == 3
    backend.clear()
    backend.close()


DAMAGE = [
    ("fixed_window", '("count" + "cost") > "limit"', '("count" + "cost") >= "limit"'),
    ("fixed_window", "_version = 1", "_version = 0"),
    ("fixed_window", "_verdict[6:7] <> _fields", "_verdict[6:7] = _fields"),
    ("token_bucket", '"wait" > "max_wait"', '"wait" >= "max_wait"'),
    ("token_bucket", '/ "interval")', '/ "burst")'),
    ("concurrency", '"kept" := ("kept" - "cost")', '"kept" := ("kept" + "cost")'),
    ("concurrency", "l.part <= _verdict[6]", "l.part < _verdict[6]"),
    ("concurrency", 'offset "spare_leases"', "offset 0"),
    ("sliding_window", '"ending_in_period" > "limit"', '"ending_in_period" >= "limit"'),
    ("sliding_window", "_verdict[7] > 0 then _owner", "_verdict[7] <> 0 then _owner"),
    ("sliding_window", "set owner = ''", "set owner = _owner"),
    ("sliding_window_counter", '"c1" := "c0"; "c0" := 0', '"c0" := 0; "c1" := "c0"'),
    ("place", '"holder" <> "caller"', '"holder" = "caller"'),
    ("place", '"wait" > 0', '"wait" >= 0'),
    ("place", 'least("touched_at", "now")', '"touched_at"'),
    ("place", '(("turn" - "turned_at") + "now")', '"turn"'),
    ("breaker", '"failure_count" >= "failure_threshold"', '"failure_count" > "failure_threshold"'),
]


@pytest.mark.parametrize(("name", "right", "wrong"), DAMAGE)
def test_damaged_functions_do_not_agree(
    postgresql: str, monkeypatch: pytest.MonkeyPatch, name: str, right: str, wrong: str
) -> None:
    sound = functions_module._function(name)
    assert right in sound.create
    damaged = sound._replace(create=sound.create.replace(right, wrong))
    monkeypatch.setattr(functions_module, "_function", lambda asked: {name: damaged}[asked])
    asked = DatabaseBackend(postgresql, timeout=20)

    @hypothesis.settings(examples(1000), phases=[hypothesis.Phase.generate])
    @hypothesis.given(scenarios(POLICIES[name], 1))
    def agree(scenario: tuple[Config, list[Step]]) -> None:
        clock = ManualClock()
        play(POLICIES[name], *scenario, clock, InDatabase(postgresql, uuid.uuid4().hex, clock, asked))

    with pytest.raises(AssertionError, match="postgresql: Call"):
        agree()
    asked.close()
