"""Begin and end a transaction, and read and write rows in it.

This module has over 300 lines because every statement of a transaction is in one class, in the order in which it runs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

from django.db import Error
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper

from ..._util.clock import Clock
from ...policies import EXPIRES, RECORD, Verdict
from ...protocol.call import Call, is_allowed
from ..batches import Batches
from .dialects import Dialect
from .sql import (
    BATCH,
    COLUMNS,
    ENDS,
    LEASES,
    NO_OWNER,
    RECORDS,
    Row,
    collation_safe,
    lease_query,
    placeholders,
    reads,
)

R = TypeVar("R")


def transact(
    connection: BaseDatabaseWrapper, work: Callable[[Transaction], R], dialect: Dialect, clock: Clock | None
) -> R:
    """Do ``work`` in a new transaction, and return the result. Django's ``atomic`` would take more round trips."""
    with begin(connection, dialect.begin) as cursor:
        try:
            transaction = Transaction(cursor, dialect, clock)
            result = work(transaction)
            cursor.execute("COMMIT" if transaction.written else "ROLLBACK")
        except Error:
            try:
                cursor.execute("ROLLBACK")
            except Error:
                connection.close()
            raise
        except BaseException:  # an interrupted statement may have left an unread answer on the connection
            connection.close()
            raise
        return result


def join(connection: BaseDatabaseWrapper, work: Callable[[Transaction], R], dialect: Dialect, clock: Clock | None) -> R:
    """Do ``work`` in the transaction that is already open on ``connection``, and return the result.

    The work runs in a savepoint. If the work fails, or writes nothing because a call is denied, the rollback of the
    savepoint also restores the timeouts of statements and locks. Otherwise the timeouts are restored explicitly.
    """
    savepoint = str(connection.savepoint())
    try:
        with connection.cursor() as cursor:
            if dialect.join:
                cursor.execute(dialect.join)
            before = cursor.fetchone() if dialect.leave else None
            transaction = Transaction(cursor, dialect, clock, joined=True)
            result = work(transaction)
            if transaction.written and before:
                cursor.execute(dialect.leave, before[:2])
    except BaseException:
        try:
            connection.savepoint_rollback(savepoint)
        except Error:
            connection.needs_rollback = True  # the database has aborted the whole transaction
        raise
    if transaction.written:
        connection.savepoint_commit(savepoint)
    else:
        connection.savepoint_rollback(savepoint)
    return result


def begin(connection: BaseDatabaseWrapper, text: str, parameters: Sequence[str | int | None] = ()) -> CursorWrapper:
    """Execute ``text``, and return the cursor.

    If the connection is closed and no transaction is open on it, execute ``text`` on a new connection.
    """
    cursor = connection.cursor()
    try:
        cursor.execute(text, parameters or None)
    except Error:
        cursor.close()
        if connection.in_atomic_block or connection.is_usable():
            raise
        connection.close()
        cursor = connection.cursor()
        cursor.execute(text, parameters or None)
    return cursor


class Transaction:
    """Reads and writes the rows of one transaction.

    Args:
        cursor: Django's cursor of the transaction's connection.
        dialect: the SQL of the database.
        clock: the clock that decisions use, or None for the database's clock.
        joined: whether the caller began the transaction, possibly long ago.
    """

    def __init__(self, cursor: Any, dialect: Dialect, clock: Clock | None, *, joined: bool = False) -> None:
        self._cursor, self._dialect, self._clock, self._joined = cursor, dialect, clock, joined
        self.written = False
        """Whether this transaction has changes to commit."""
        self._creates = False

    def lock(self, rows: Sequence[Row]) -> dict[str, Row]:
        """Lock ``rows`` until the transaction ends, and return them as stored, by id.

        Rows that do not exist yet are created, because the database can't lock them otherwise. SQLite needs no such
        rows. Rows are locked in the order of their ids, so that two transactions do not wait for each other.
        """
        rows = sorted(rows)
        found = self._found(rows)
        if len(found) == len(rows):
            return found
        self._creates = True
        if not self._dialect.lock:  # SQLite has one lock, and this transaction holds it
            return {row.id: row for row in rows} | found
        if found and not self._joined:
            # The INSERT may have to wait for a transaction that creates the same rows. Release all locks before the
            # INSERT, so that the other transaction does not wait for this one.
            self._cursor.execute("ROLLBACK")
            self._cursor.execute(self._dialect.begin)
        self._insert(rows, self._dialect.or_lock)
        return self._found(rows)

    def decide(self, calls: Sequence[Call], rows: Sequence[Row]) -> list[Verdict]:
        """Return the verdicts on ``calls``, one call for each of ``rows``. If all are allowed, write changed rows."""
        locked = self.lock(rows)
        now = None if self._clock is None else self._clock()
        now, verdicts, changed = self._decide_batch(calls, rows, locked, now)
        self.replace(changed, now)
        return verdicts

    def decide_each(self, batches: Batches, rows: Sequence[Sequence[Row]], most: int | None) -> list[list[Verdict]]:
        """Decide one batch after the other, until ``most`` of them are allowed. ``rows`` are the batches' records.

        Return the verdicts of the batches that were decided. All records are locked before the first decision.
        """
        locked = self.lock(list({row.id: row for batch in rows for row in batch}.values()))
        created = {row.id for row in locked.values() if not row.kept_until}
        now = self.now()
        found: list[list[Verdict]] = []
        changed: dict[str, Row] = {}
        allowed = 0
        for calls, batch in zip(batches, rows, strict=True):
            if allowed == most:
                break
            _, verdicts, after = self._decide_batch(calls, batch, locked, now)
            found.append(verdicts)
            allowed += is_allowed(verdicts)
            changes = {row.id: row for row in after}
            changed |= changes
            locked |= changes
        if changed or self.written:  # otherwise the rollback deletes the created rows
            self._remove_unused(sorted(created - changed.keys()))
        self.replace(list(changed.values()), now, 2 * len(created & changed.keys()))
        return found

    def _decide_batch(
        self, calls: Sequence[Call], rows: Sequence[Row], locked: Mapping[str, Row], now: int | None
    ) -> tuple[int, list[Verdict], list[Row]]:
        """Return the time, the verdicts, and the rows to write. Write the leases, if all calls are allowed.

        Args:
            now: the time in µs, or None to read the database's clock.
        """
        now, answers = self._read_leases(calls, rows, now)
        decided = [_decide(call, locked[row.id], now, answers) for call, row in zip(calls, rows, strict=True)]
        verdicts = [verdict for _, verdict in decided]
        changed: list[Row] = []
        if is_allowed(verdicts):
            for call, row, (stored, verdict) in zip(calls, rows, decided, strict=True):
                before = locked[row.id]
                after = self._changed(call, before, stored, verdict, now)
                if after != before:
                    changed.append(after)
        return now, verdicts, changed

    def replace(self, rows: Sequence[Row], now: int, sweep: int = 2) -> None:
        """Write ``rows``, which this transaction has locked.

        If a row is new, also delete up to ``sweep`` records that have ended, so that the table stays small. In a
        transaction of the caller, nothing else is deleted, because the locks would last until that transaction ends.
        """
        if not rows:
            return
        self._insert(rows, self._dialect.or_replace)
        self.written = True
        if self._creates and not self._joined:
            self.remove_ended(now, sweep)

    def now(self) -> int:
        """Return the time in µs."""
        if self._clock is not None:
            return self._clock()
        self._cursor.execute(f"SELECT {self._dialect.clock}")
        return int(self._cursor.fetchone()[0])

    def probe_table(self) -> None:
        """Execute a SELECT of no rows. It raises if the whole table is locked. Locked records do not matter."""
        self._cursor.execute(f"{self._dialect.within_ms}SELECT 1 FROM {RECORDS} LIMIT 0")

    def remove_ended(self, now: int, most: int) -> tuple[int, int]:
        """Delete up to ``most`` records that have ended and are not locked, and their leases.

        Return how many records and how many leases were deleted.
        """
        found = self._ids(f"WHERE kept_until <= {now} ORDER BY kept_until LIMIT {most}", [], self._dialect.lock_free)
        return len(found), self._remove(found)

    def remove(self, condition: str, parameters: Sequence[str]) -> int:
        """Delete up to ``BATCH`` records that match ``condition``, and their leases.

        Return how many records were deleted.
        """
        found = self._ids(f"WHERE {condition} ORDER BY id LIMIT {BATCH}", parameters, self._dialect.lock)
        self._remove(found)
        return len(found)

    # Reading

    def _found(self, rows: Sequence[Row]) -> dict[str, Row]:
        ids = [row.id for row in rows]
        condition = f"WHERE id IN {placeholders(ids)} ORDER BY id{self._dialect.lock}"
        self._cursor.execute(f"{self._dialect.within_ms}SELECT {COLUMNS} FROM {RECORDS} {condition}", ids)
        return {values[0]: Row(*values) for values in self._cursor.fetchall()}

    def _last_end(self, record: str) -> int:
        """Return when the last lease of ``record`` ends, or 0 if there are no leases."""
        self._cursor.execute(f"{self._dialect.within_ms}SELECT MAX(ends) FROM {LEASES} WHERE record = %s", [record])
        return int(self._cursor.fetchone()[0] or 0)

    def _ids(self, condition: str, parameters: Sequence[str], lock: str) -> list[str]:
        self._cursor.execute(f"{self._dialect.within_ms}SELECT id FROM {RECORDS} {condition}{lock}", parameters)
        return [values[0] for values in self._cursor.fetchall()]

    def _read_leases(self, calls: Sequence[Call], rows: Sequence[Row], now: int | None) -> tuple[int, Iterator[int]]:
        """Return the time in µs, and the results of the :func:`reads` of each call.

        The rows are locked before, so no other transaction changes the leases meanwhile.

        Args:
            now: the time in µs, or None to read the database's clock.
        """
        if now is not None and not any(call.policy.leases for call in calls):
            return now, iter(())
        latest = self._dialect.latest if self._joined else ""
        text, parameters = lease_query(calls, rows, self._dialect.clock if now is None else str(now), latest)
        self._cursor.execute(text, parameters)
        values = iter([int(value or 0) for value in self._cursor.fetchone()])
        return next(values), values

    # Writing

    def _changed(self, call: Call, row: Row, stored: _Stored, verdict: Verdict, now: int) -> Row:
        policy = call.policy
        width = len(policy.record)
        record = verdict[RECORD : RECORD + width]
        if verdict[EXPIRES] > 0 and record != stored.record:
            expires = verdict[EXPIRES]
            row = row._replace(version=policy.version, expires=expires, data=" ".join(map(str, record)))
            if row.overstays(expires, now):
                row = row._replace(kept_until=self._last_end(row.id) if policy.leases else 0)
            row = row.kept(expires, now)
        if policy.leases:
            drop, add, ends = verdict[RECORD + width :]
            if drop or add:
                self._exchange(call, row.id, stored, drop, add, ends, now)
            if add:
                row = row.kept(ends, now)
        return row

    def _exchange(self, call: Call, record: str, stored: _Stored, drop: int, add: int, ends: int, now: int) -> None:
        """Drop and add leases as the policy decided. See :mod:`ratelimit_core.policies`."""
        owner = collation_safe(call.lease_id)
        ended = 0 < stored.leases["oldest"] <= now
        if drop or ended:
            self._cursor.execute(
                f"DELETE FROM {LEASES} WHERE record = %s AND (ends <= %s OR (owner = %s AND part <= %s))",
                [record, now, owner, drop],
            )
        if stored.leases["own_end"] and drop < add:
            self._cursor.execute(
                f"UPDATE {LEASES} SET owner = %s WHERE record = %s AND owner = %s AND part <= %s",
                [NO_OWNER, record, owner, add],
            )
        holder = owner if add > 0 else NO_OWNER
        parts = iter(range(1, abs(add) + 1))
        while batch := list(islice(parts, BATCH)):
            values = [value for part in batch for value in (record, holder, part, ends)]
            self._cursor.execute(
                f"INSERT INTO {LEASES} (record, owner, part, ends) VALUES "
                + ", ".join(["(%s, %s, %s, %s)"] * len(batch)),
                values,
            )
        self.written = True

    def _insert(self, rows: Sequence[Row], otherwise: str) -> None:
        lines = ", ".join([placeholders(rows[0])] * len(rows))
        values = [value for row in rows for value in row]
        into = f"{self._dialect.within_ms}INSERT INTO {RECORDS} ({COLUMNS}) VALUES {lines}{otherwise}"
        self._cursor.execute(into, values)

    def _remove_unused(self, ids: Sequence[str]) -> None:
        """Delete rows that :meth:`lock` created and that were not written. They have no leases."""
        if ids and self._dialect.lock:
            self._cursor.execute(f"DELETE FROM {RECORDS} WHERE id IN {placeholders(ids)}", ids)

    def _remove(self, ids: Sequence[str]) -> int:
        """Delete records and their leases. Return how many leases were deleted.

        The records are locked, so no other transaction adds leases meanwhile.
        """
        leases = 0
        if ids:
            self._cursor.execute(f"DELETE FROM {LEASES} WHERE record IN {placeholders(ids)}", ids)
            leases = self._cursor.rowcount
            self._cursor.execute(f"DELETE FROM {RECORDS} WHERE id IN {placeholders(ids)}", ids)
            self.written = True
        return leases


class _Stored:
    """The stored record of a call, and the results of its reads of leases, from before the decision."""

    __slots__ = ("leases", "record")

    def __init__(self, call: Call, row: Row, now: int, answers: Iterator[int]) -> None:
        policy = call.policy
        self.record = (0,) * len(policy.record)
        if row.expires > now and row.version == policy.version and _is_record(row.data, len(self.record)):
            self.record = tuple(map(int, row.data.split()))
        self.leases = {name: next(answers) for name in reads(call)}
        for name in ENDS.intersection(self.leases):
            if self.leases[name] <= now:
                self.leases[name] = 0


def _is_record(data: str, width: int) -> bool:
    """Return whether ``data`` consists of ``width`` numbers."""
    fields = data.split(" ")
    return len(fields) == width and all(_NUMBER.fullmatch(field) for field in fields)


_NUMBER = re.compile(r"-?[0-9]{1,16}")  # the numbers in a record stay below 2**53, which has 16 digits


def _decide(call: Call, row: Row, now: int, answers: Iterator[int]) -> tuple[_Stored, Verdict]:
    policy = call.policy
    stored = _Stored(call, row, now, answers)
    config = dict(zip(policy.config, call.config, strict=True))
    held = [stored.leases[name] for name in policy.leases]
    return stored, policy.decide(*stored.record, *call.event, now, *held, **config)
