"""Faults of a database: a PostgreSQL of the suite's own, and a file of SQLite."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest
from django.db import connections

from ratelimit_core.backends import DatabaseBackend
from ratelimit_core.backends.database.sql import RECORDS
from tests import databases, servers

from .conftest import Saw
from .proxy import Proxy, proxy
from .scenario import FIRST, Fault, endure, fleet

pytestmark = pytest.mark.timed


class Database(NamedTuple):
    server: servers.PostgreSQL
    way: Proxy
    alias: str
    until_healed: ExitStack

    def session(self) -> psycopg.Connection[Any]:
        """One of the test's own, that does not go the way."""
        return psycopg.connect(servers.PostgreSQL.url(self.server.port))


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    with (
        servers.postgresql() as server,
        proxy(server.port) as way,
        databases.migrated("faulty", "postgresql", servers.PostgreSQL.url(way.port)) as alias,
        ExitStack() as until_healed,
    ):
        yield Database(server, way, alias, until_healed)


def _terminate(database: Database) -> None:
    others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    with database.session() as session:
        session.execute(f"SELECT pg_terminate_backend(pid, 5000) {others}")


def _take_all_connections(database: Database) -> None:
    _terminate(database)
    with suppress(psycopg.OperationalError):  # too many clients already
        while True:
            database.until_healed.enter_context(database.session())


def _lock(database: Database) -> None:
    database.until_healed.enter_context(database.session()).execute(f"LOCK TABLE {RECORDS}")


def _hold(database: Database) -> None:
    database.until_healed.enter_context(database.session()).execute(f"SELECT 1 FROM {RECORDS} FOR UPDATE")


def _heal(database: Database) -> None:
    database.until_healed.close()


def _restart(database: Database) -> None:
    database.server.kill()
    database.server.start()


POSTGRESQL = [
    Fault("PostgreSQL refused", "SIGQUIT", lambda it: it.server.kill(), lambda it: it.server.start()),
    Fault(
        "PostgreSQL hung", "SIGSTOP of all its processes", lambda it: it.server.hang(), lambda it: it.server.end_hang()
    ),
    Fault("PostgreSQL black-holed", "no packet arrives", lambda it: it.way.black_hole(), lambda it: it.way.heal()),
    Fault("PostgreSQL out of connections", "all of max_connections are taken", _take_all_connections, _heal),
    Fault("PostgreSQL locked", "LOCK TABLE by another session", _lock, _heal),
    # The database is there, so it is asked by each call whether it still is so; other records are decided as before.
    pytest.param(
        Fault("PostgreSQL records locked", "SELECT FOR UPDATE by another session", _hold, _heal, later=FIRST),
        marks=pytest.mark.whole,
    ),
    Fault("PostgreSQL restarted", "SIGQUIT, and a start", _restart, outage=False),
    Fault("PostgreSQL connections terminated", "pg_terminate_backend of all", _terminate, outage=False),
]


@pytest.mark.parametrize("fault", POSTGRESQL, ids=str)
def test_postgresql(fault: Fault[Database], database: Database, saw: Saw) -> None:
    prefix = uuid.uuid4().hex
    with database.until_healed, fleet(lambda: DatabaseBackend(database.alias, key_prefix=prefix)) as members:
        saw(endure(fault, database, members))


class File(NamedTuple):
    alias: str
    until_healed: ExitStack


LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.readline()
"""


def _lock_file(file: File) -> None:
    path = connections[file.alias].settings_dict["NAME"]
    file.until_healed.enter_context(servers.Process.python("-c", LOCK, str(path))).wait_for("locked")


SQLITE = Fault(
    "SQLite locked", "BEGIN IMMEDIATE in another process", _lock_file, lambda file: file.until_healed.close()
)


def test_sqlite(tmp_path: Path, saw: Saw) -> None:
    with (
        databases.sqlite(tmp_path, timeout=0.2) as alias,
        ExitStack() as until_healed,
        fleet(lambda: DatabaseBackend(alias)) as members,
    ):
        saw(endure(SQLITE, File(alias, until_healed), members))
