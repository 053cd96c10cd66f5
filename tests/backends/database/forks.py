"""A program that forks while it is connected; its child asks the same store and ends like any program."""

from __future__ import annotations

import os
import sys

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from ratelimit_core.backends.database import DatabaseBackend
from tests import databases


def session(backend: DatabaseBackend) -> object:
    """What tells one of the backend's connections from another."""
    if connections[backend.alias].vendor == "sqlite":
        return id(connections[backend.alias].connection)
    return backend._executor.threads.submit(_number).result()


def _number(connection: BaseDatabaseWrapper) -> object:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()" if connection.vendor == "postgresql" else "SELECT CONNECTION_ID()")
        return cursor.fetchone()[0]


def sessions(alias: str) -> set[object]:
    """All that the database has."""
    connection = connections[alias]
    if connection.vendor == "sqlite":
        return {id(connection.connection)}
    mysql = "SELECT GROUP_CONCAT(id) FROM information_schema.processlist"
    listed = "SELECT string_agg(pid::text, ',') FROM pg_stat_activity" if connection.vendor == "postgresql" else mysql
    return {int(number) for number in str(_one(alias, listed)).split(",")}


def _one(alias: str, query: str) -> object:
    with connections[alias].cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchone()[0]


def main(alias: str, prefix: str) -> None:
    databases.setup()
    backend = DatabaseBackend(alias, timeout=20, key_prefix=prefix)
    backend.incr("key", 3600)
    before, known = session(backend), sessions(alias)
    child = os.fork()
    if not child:
        backend.incr("key", 3600)
        new = session(backend) not in known
        connections.close_all()
        sys.exit(0 if new else 1)
    backend.incr("key", 3600)
    _, status = os.waitpid(child, 0)
    print("counted", backend.incr("key", 3600), status == 0 and session(backend) == before, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
