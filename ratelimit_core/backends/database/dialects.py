"""What differs between the databases."""

from __future__ import annotations

from typing import NamedTuple

from .sql import _CHANGING, RECORDS


class Dialect(NamedTuple):
    """Where three databases differ. A statement of ours may take ``{ms}``, ``{lock_ms}`` of it for a lock.

    See :meth:`within`.
    """

    begin: str
    join: str
    """The first statement in a transaction that somebody else began; '' where none is needed."""
    leave: str
    """The last one there: it puts back the two that ``join`` has answered first; '' where nothing was changed."""
    within_ms: str
    """Stands before a statement that may have to wait; '' where the transaction as a whole knows for how long."""
    clock: str
    """An expression for the time in µs at which the statement began; '' where the database runs in this process."""
    lock: str
    """Stands behind a SELECT whose rows are to be locked."""
    lock_free: str
    """The same, passing over those that are locked; '' where there is no such thing."""
    or_lock: str
    """Stands behind an INSERT: rows that are there already are locked."""
    or_replace: str
    """The same: rows that are there already are replaced."""
    latest: str
    """Stands behind a SELECT that has to see what was committed last, inside a transaction that began earlier."""
    functions: bool = False
    """Whether policies can be functions there: see :mod:`.functions`."""
    ms: int = 0
    """How long those may take."""

    def within(self, seconds: float) -> Dialect:
        """The same, for statements that the database ends after so many seconds, if it can; first those that wait."""
        ms = max(2, round(seconds * 1000))
        spans = {"ms": ms, "s": ms / 1000, "lock_ms": ms * 9 // 10}
        texts = {name: getattr(self, name).format(**spans) for name in ("begin", "join", "within_ms")}
        return self._replace(**texts, ms=ms)


_CONFLICT = " ON CONFLICT (id) DO UPDATE SET"
_DUPLICATE = " ON DUPLICATE KEY UPDATE"

DIALECTS = {
    # The write lock first: a transaction that began by reading could not get it later.
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
    # What a crash of the server takes with it is the last moment's decisions, and waiting for its disk costs most.
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
        within_ms="/*M! SET STATEMENT max_statement_time={s} FOR */ ",  # MySQL: its innodb_lock_wait_timeout
        clock="TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))",
        lock=" FOR UPDATE",
        lock_free=" FOR UPDATE SKIP LOCKED",
        or_lock=f"{_DUPLICATE} id = VALUES(id)",
        or_replace=_DUPLICATE + ", ".join(f" {column} = VALUES({column})" for column in _CHANGING),
        latest=" LOCK IN SHARE MODE",
    ),
}
