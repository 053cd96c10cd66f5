"""Differences between the databases in SQL."""

from __future__ import annotations

from typing import NamedTuple

from .sql import _CHANGING, RECORDS


class Dialect(NamedTuple):
    """The SQL of one kind of database. An empty text means that this database needs no such statement or clause.

    :meth:`with_timeout` fills in the placeholders of durations, such as ``{ms}`` and ``{lock_ms}``.
    """

    begin: str
    """The statements that begin a transaction."""
    join: str
    """The first statement of the backend in a transaction of the caller.

    On PostgreSQL, it returns two timeouts, and changes them. On SQLite, it takes the write lock.
    """
    leave: str
    """The last statement of the backend in a transaction of the caller. It restores the two timeouts."""
    within_ms: str
    """The beginning of a statement that may wait. It limits the statement's duration."""
    clock: str
    """An expression for the time in µs at which the statement began. Empty if the database runs in this process."""
    lock: str
    """The end of a SELECT that locks its rows."""
    lock_free: str
    """The end of a SELECT that locks its rows and skips rows that are locked already."""
    or_lock: str
    """The end of an INSERT that locks rows that exist already."""
    or_replace: str
    """The end of an INSERT that replaces rows that exist already."""
    latest: str
    """The end of a SELECT that reads the latest committed rows, even in a transaction with an older snapshot."""
    functions: bool = False
    """Whether policies can be functions of the database: see :mod:`.functions`."""
    ms: int = 0
    """The time in milliseconds after which such a function writes nothing and raises an error."""

    def with_timeout(self, seconds: float) -> Dialect:
        """Return a dialect with which the database ends a statement after ``seconds``.

        PostgreSQL ends the wait for a lock even earlier. MySQL and SQLite ignore the timeouts.
        """
        ms = max(2, round(seconds * 1000))
        spans = {"ms": ms, "s": ms / 1000, "lock_ms": ms * 9 // 10}
        texts = {name: getattr(self, name).format(**spans) for name in ("begin", "join", "within_ms")}
        return self._replace(**texts, ms=ms)


_CONFLICT = " ON CONFLICT (id) DO UPDATE SET"
_DUPLICATE = " ON DUPLICATE KEY UPDATE"

DIALECTS = {
    # Transactions take the write lock first, because a transaction that has read may not get it later.
    "sqlite": Dialect(
        begin="BEGIN IMMEDIATE",
        join=f"DELETE FROM {RECORDS} WHERE id = ''",
        leave="",
        within_ms="",
        clock="",
        lock="",
        lock_free="",
        or_lock=f"{_CONFLICT} id = EXCLUDED.id",
        or_replace=_CONFLICT + ", ".join(f" {column} = EXCLUDED.{column}" for column in _CHANGING),
        latest="",
    ),
    # COMMIT does not wait for the disk, which would take most of the time. A crash of the server may therefore lose the
    # decisions of the last half second.
    "postgresql": Dialect(
        begin="BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL statement_timeout = {ms};"
        " SET LOCAL lock_timeout = {lock_ms}; SET LOCAL synchronous_commit = off",
        join="SELECT current_setting('statement_timeout'), current_setting('lock_timeout'),"
        " set_config('statement_timeout', '{ms}', true), set_config('lock_timeout', '{lock_ms}', true)",
        leave="SELECT set_config('statement_timeout', %s, true), set_config('lock_timeout', %s, true)",
        within_ms="",
        clock="(EXTRACT(EPOCH FROM statement_timestamp()) * 1000000)::bigint",
        lock=" FOR UPDATE",
        lock_free=" FOR UPDATE SKIP LOCKED",
        or_lock=f"{_CONFLICT} id = EXCLUDED.id",
        or_replace=_CONFLICT + ", ".join(f" {column} = EXCLUDED.{column}" for column in _CHANGING),
        latest="",
        functions=True,
    ),
    "mysql": Dialect(
        begin="START TRANSACTION",
        join="",
        leave="",
        # MariaDB executes this text. MySQL reads it as a comment, so only innodb_lock_wait_timeout ends a wait there.
        within_ms="/*M! SET STATEMENT max_statement_time={s} FOR */ ",
        clock="TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))",
        lock=" FOR UPDATE",
        lock_free=" FOR UPDATE SKIP LOCKED",
        or_lock=f"{_DUPLICATE} id = VALUES(id)",
        or_replace=_DUPLICATE + ", ".join(f" {column} = VALUES({column})" for column in _CHANGING),
        latest=" LOCK IN SHARE MODE",
    ),
}
