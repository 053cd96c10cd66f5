"""What differs between the databases."""

from __future__ import annotations

from typing import NamedTuple

from .sql import _CHANGING, RECORDS


class Dialect(NamedTuple):
    """Where three databases differ. :meth:`with_timeout` fills in ``{ms}``, and ``{lock_ms}`` for locks."""

    begin: str
    join: str
    """The first statement in a transaction that the caller began; '' where none is needed."""
    leave: str
    """The last statement there. It sets back the two values that ``join`` returned; '' where nothing was changed."""
    within_ms: str
    """Stands before a statement that may have to wait; '' where the transaction as a whole has a timeout."""
    clock: str
    """An expression for the time in µs at which the statement began; '' where the database runs in this process."""
    lock: str
    """Stands after a SELECT that locks its rows."""
    lock_free: str
    """The same for a SELECT that skips locked rows; '' where that does not exist."""
    or_lock: str
    """Stands after an INSERT that locks rows that exist already."""
    or_replace: str
    """The same for an INSERT that replaces them."""
    latest: str
    """Stands after a SELECT that has to read what was committed last, in a transaction that began earlier."""
    functions: bool = False
    """Whether policies can be functions: see :mod:`.functions`."""
    ms: int = 0
    """How long such a function may take."""

    def with_timeout(self, seconds: float) -> Dialect:
        """Return a dialect whose statements the database ends after ``seconds``, if it can; lock waits even earlier."""
        ms = max(2, round(seconds * 1000))
        spans = {"ms": ms, "s": ms / 1000, "lock_ms": ms * 9 // 10}
        texts = {name: getattr(self, name).format(**spans) for name in ("begin", "join", "within_ms")}
        return self._replace(**texts, ms=ms)


_CONFLICT = " ON CONFLICT (id) DO UPDATE SET"
_DUPLICATE = " ON DUPLICATE KEY UPDATE"

DIALECTS = {
    # It takes the write lock first, since a transaction that began by reading could not get it later.
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
    # Waiting for the disk costs most, so a crash of the server loses the decisions of the last half second.
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
