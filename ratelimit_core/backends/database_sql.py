"""The SQL of the database backend: two tables, three dialects.

A **record** is one row: its key as a digest, so that neither the length of an index nor a collation matters; the
same key in words; and version, expiry and fields. A policy that has only leases has a row too, which is what its
decisions lock. ``kept_until`` is never before the last of row and leases ends, so whatever it has passed can go.
A **lease** is one row for each place: who holds it, the first, second, ... of its holder's, and when it ends.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from ..clock import SECOND
from .calls import Call, Key, escape

RECORDS = "ratelimit_core_record"
LEASES = "ratelimit_core_lease"

BATCH = 500
"""Rows in one statement at most."""

NOBODY = ""
"""The owner of a lease that no ticket names any more."""

AGES = 10 * 365 * 86400 * SECOND
"""So much longer than it has to be nothing is kept: what was to last for ever, as a mode that was forced, may end."""

Parameters = list[str | int]


class Row(NamedTuple):
    """A record as it is stored."""

    id: str
    prefix: str
    policy: str
    name: str
    qualifier: str
    version: int = 0
    expires: int = 0
    data: str = ""
    kept_until: int = 0

    def kept(self, until: int, now: int) -> Row:
        """Kept until then; so much longer that this, which is indexed, need not be moved each time."""
        return self if until <= self.kept_until else self._replace(kept_until=2 * until - now)

    def kept_for_ages(self, until: int, now: int) -> bool:
        """Whether it is kept for ages beyond what would do until then."""
        return self.kept_until > 2 * until - now + AGES


COLUMNS = ", ".join(Row._fields)
_CHANGING = ("version", "expires", "data", "kept_until")


def foldless(text: str) -> str:
    """``text`` for a column that is compared: many collations don't tell capitals apart, so such texts are digests."""
    safe = escape(text)
    return safe if 0 < len(safe) <= 64 and safe == safe.lower() else _digest(text)


def row(prefix: str, policy: str, key: Key) -> Row:
    """The row of a record that has never been written. ``prefix`` went through :func:`foldless`."""
    name, qualifier = escape(key[0]), escape(key[1])  # no colons in any of them: no two keys are joined alike
    return Row(_digest(f"{prefix}:{policy}:{name}:{qualifier}"), prefix, policy, name, qualifier)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


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
    """Whether policies can be functions there: see :mod:`.database_functions`."""
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


def places(values: Sequence[object]) -> str:
    """``(%s, %s, ...)``."""
    return f"({', '.join(['%s'] * len(values))})"


_OF = f"FROM {LEASES} WHERE record = %s"
_READS = {
    # what a policy may ask about its leases, see `policies.LEASES`
    "active": f"SELECT COUNT(*) {_OF} AND ends > {{now}}",
    "ending_in_period": f"SELECT COUNT(*) {_OF} AND ends > {{now}} AND ends <= {{now}} + {{period}}",
    "first_end": f"SELECT MIN(ends) {_OF} AND ends > {{now}}",
    "last_end": f"SELECT MAX(ends) {_OF}",
    "capacity_at": f"SELECT ends {_OF} ORDER BY ends DESC LIMIT 1 OFFSET {{spare}}",
    "own_end": f"SELECT ends {_OF} AND owner = %s AND part = 1 ORDER BY ends DESC LIMIT 1",
    # what is needed to write leases
    "oldest": f"SELECT MIN(ends) {_OF}",
}
ENDS = frozenset(["first_end", "last_end", "capacity_at", "own_end"])
"""Reads whose answer is a time, and counts as none once that has come."""


def reads(call: Call) -> tuple[str, ...]:
    """What has to be read of the leases of ``call``."""
    return tuple(dict.fromkeys((*call.policy.leases, "own_end", "oldest"))) if call.policy.leases else ()


def look(calls: Sequence[Call], rows: Sequence[Row], now: str, latest: str) -> tuple[str, Parameters]:
    """One SELECT of one row: the time, then all that each of ``calls`` reads of its leases."""
    columns, parameters = [now], Parameters()
    for call, row in zip(calls, rows, strict=True):
        values = dict(zip(call.policy.config + call.policy.event, call.config + call.event, strict=True))
        for name in reads(call):
            read = _READS[name].format(now=now, spare=values.get(call.policy.spare), period=values.get("period"))
            columns.append(f"({read}{latest})")
            parameters += (row.id, foldless(call.ticket)) if name == "own_end" else (row.id,)
    return f"SELECT {', '.join(columns)}", parameters


def listing(now: str, most: int | None) -> str:
    """The keys that are in use, of a prefix and policy, ``most`` at most."""
    leases = f"SELECT 1 FROM {LEASES} WHERE {LEASES}.record = {RECORDS}.id AND {LEASES}.ends > {now}"
    return (
        f"SELECT name, qualifier FROM {RECORDS} WHERE prefix = %s AND policy = %s AND kept_until > {now}"
        f" AND (expires > {now} OR EXISTS ({leases}))" + ("" if most is None else f" LIMIT {most}")
    )


def reading(now: str) -> str:
    """The data of the record of an id."""
    return f"SELECT data FROM {RECORDS} WHERE id = %s AND expires > {now}"
