"""Records in a database of Django's: PostgreSQL, MySQL, MariaDB and SQLite."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

from django.core.exceptions import ImproperlyConfigured
from django.db import Error, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper
from django.utils.connection import ConnectionDoesNotExist

from ..._util.clock import SECOND, Clock, wall
from ..._util.fork import renewed_after_fork
from ..._util.suggest import did_you_mean
from ...config.sources import setting
from ...errors import BackendContention, BackendError, ConfigurationError
from ...policies import Policy, Verdict
from ...protocol.call import Call, Key, refuse_duplicates
from ...protocol.names import unescape
from ..base import Backend
from .dialects import DIALECTS, Dialect
from .faults import _ABORTED, _BEGIN_AGAIN, _HELD, _UNDEFINED, _code
from .functions import Question, Sessions
from .sql import BATCH, RECORDS, foldless, listing, places, reading, row
from .threads import Threads, in_event_loop, this_threads
from .transaction import Rows

R = TypeVar("R")

TIMEOUT = 0.3
"""Seconds that a question may take."""
_PATIENCE = 5.0
"""The same, of what goes through a whole table."""
_SERVERS = 0.8
"""The share of that after which the server ends what it does."""
_ATTEMPTS = 5
_JOURNAL = "journal"
"""Journals are records of this name in place of a policy's."""


class DatabaseBackend(Backend):
    """State in a database of Django's ``DATABASES``; its tables are made by ``manage.py migrate --database ALIAS``.

    A call is one short transaction: the records are locked in an order that all keep to, and time is read once
    they are; so it is exact among threads, processes and machines, on the database's clock (SQLite: this
    machine's). What is denied is rolled back. A call takes 5 statements, BEGIN and COMMIT included, however many
    records it decides; up to 3 more for each exact log or other set of leases; up to 7 more where a record is new.

    **On PostgreSQL a call is one statement**, however many records it decides and whatever becomes of it. Policies are
    functions there, which a session makes in its ``pg_temp`` when it is asked for the second time. It is as above for a
    session's first question, inside transactions of the caller, where nobody may make temporary things, and where
    ``default_transaction_isolation`` is not "read committed". A crash of the server may take the last half second of
    decisions with it, as with Redis.

    **An alias of its own** (the setting ``database``) is recommended: while a transaction is open on the alias,
    calls join it. A rollback then undoes what was decided, such as the failure of which the rollback is a
    consequence; and records stay locked for other processes until the transaction ends. In a transaction that is
    broken no question can be put, nor in one of SQLite that has read before somebody else wrote ("database is locked");
    that is a BackendError which does not count as the database being away. On SQLite an alias of its own is a file of
    its own.

    **A server that hangs** holds nobody up for longer than ``timeout``: it is asked in a few threads of the backend's
    own, whose connections are closed after each question unless ``CONN_MAX_AGE`` or a pool (``OPTIONS = {"pool":
    True}``) keeps them. Two cases are asked in the caller's thread, on its connection. One is SQLite, which waits for
    its lock as long as ``OPTIONS = {"timeout": ...}`` says. The other is a transaction that is open on the alias: there
    PostgreSQL and MariaDB end a statement of ours that takes too long, but nobody can end the waiting for a server that
    does not even do that, as for the caller's own statements. A forked child makes connections of its own; a pool is
    for programs that don't fork once it is open.

    **A record that others hold** for as long, or too many questions for these threads, is a
    :class:`BackendContention`: the database is available, and other records are answered. A session that locks
    a whole table, or that writes to SQLite for that long, blocks every caller: that counts as unavailable. MySQL
    does not end the wait for a record so soon: it can't be told from a server that hangs.

    Args:
        alias: the setting ``database`` by default.
        timeout: seconds that a question may take, connecting and waiting for locks included. What goes through a
            whole table (``keys``, ``clear``, ``prune``) may take 5 s.
        key_prefix: two applications that must not meet in the same tables take two prefixes; the setting
            ``key_prefix`` by default.
        clock: decides instead of the database's clock; for tests.
        options: those of :class:`Backend`.

    Raises:
        ConfigurationError: there is no such alias, or it is of a database that is not supported; a wrong timeout.
    """

    def __init__(
        self,
        alias: str | None = None,
        *,
        timeout: float = TIMEOUT,
        key_prefix: str | None = None,
        clock: Clock | None = None,
        **options: Any,
    ) -> None:
        super().__init__(clock=clock, **options)
        self.alias = setting("database") if alias is None else alias
        self._prefix = foldless(setting("key_prefix") if key_prefix is None else key_prefix)
        if not (type(timeout) in (int, float) and 0.001 <= timeout <= 3600):
            raise ConfigurationError(f"timeout={timeout!r} should be seconds, from 0.001 to 3600")
        dialect = _dialect(self.alias)
        self._clock = clock if clock or dialect.clock else wall
        self._timeout = timeout
        self._dialect = dialect
        self._in_time = {seconds: dialect.within(_SERVERS * seconds) for seconds in (timeout, _PATIENCE)}
        self._threads = Threads(self.alias)
        self._sessions = Sessions()
        _instances.add(self)

    def _apply(self, calls: Sequence[Call]) -> list[Verdict]:
        refuse_duplicates(calls)
        return self._ask(self._deciding(calls), self._timeout) if calls else []

    async def _aapply(self, calls: Sequence[Call]) -> list[Verdict]:
        refuse_duplicates(calls)
        if not calls:
            return []
        seconds = self._timeout
        by = time.monotonic() + seconds
        future = self._threads.submit(partial(self._deciding(calls), by), by)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self._limit(seconds))
        except TimeoutError as error:
            raise self._too_late(seconds) from error

    def _deciding(self, calls: Sequence[Call]) -> Callable[[float, BaseDatabaseWrapper], list[Verdict]]:
        rows = [row(self._prefix, call.policy.name, call.key) for call in calls]
        shortcut = partial(self._at_once, Question(calls, rows)) if self._dialect.functions else None
        return partial(self._attempt, lambda locked: locked.decide(calls, rows), self._timeout, shortcut=shortcut)

    def _delete(self, policy: Policy, keys: Sequence[Key]) -> None:
        ids = [row(self._prefix, policy.name, key).id for key in keys]
        for start in range(0, len(ids), BATCH):
            batch = ids[start : start + BATCH]
            self._run(partial(Rows.remove, condition=f"id IN {places(batch)}", parameters=batch))

    def _keys(self, policy: Policy, most: int | None) -> list[Key]:
        text = listing(self._now(), most)
        found = self._read(text, [self._prefix, policy.name], _PATIENCE)
        return [(unescape(name), unescape(qualifier)) for name, qualifier in found]

    def _clear(self) -> None:
        while self._run(lambda rows: rows.remove("prefix = %s", [self._prefix]), patiently=True):
            pass

    def _append(self, key: Key, entry: str, keep: int, seconds: int) -> None:
        journal = row(self._prefix, _JOURNAL, key)

        def append(rows: Rows) -> None:
            stored = rows.lock([journal])[journal.id]
            now = rows.now()
            entries = _journal(stored.data) if stored.expires > now else []
            ends = now + seconds * SECOND
            data = json.dumps([entry, *entries][:keep])  # ASCII: no text is too much for any database
            rows.replace([stored._replace(expires=ends, data=data, kept_until=ends)], now)

        self._run(append)

    def _entries(self, key: Key) -> list[str]:
        found = self._read(reading(self._now()), [row(self._prefix, _JOURNAL, key).id], self._timeout)
        return _journal(found[0][0]) if found else []

    def prune(self, batch: int = 1000) -> tuple[int, int]:
        """Delete up to ``batch`` records that have ended, of any prefix, and their leases; how many of each.

        Nobody waits for it, nor it for anybody: what is locked is passed over.
        """
        return self._run(lambda rows: rows.remove_ended(rows.now(), batch), patiently=True)

    def close(self) -> None:
        """Close the connections of its own, and this thread's, unless a transaction is open on that."""
        self._threads.stop()
        self._sessions = Sessions()
        connection = connections[self.alias]
        if not connection.in_atomic_block:
            connection.close()

    def _after_fork(self) -> None:
        """Leave the parent's connections alone in a child: to close one there would end the parent's session.

        They are kept, since to collect them would be to close them.
        """
        _set_aside.extend([self._threads, self._sessions])
        self._threads, self._sessions = Threads(self.alias), Sessions()
        for connection in connections.all(initialized_only=True):
            if connection.alias == self.alias:
                _set_aside.append(connection)
                del connections[self.alias]

    # Whose thread

    def _ask(self, operation: Callable[[float, BaseDatabaseWrapper], R], seconds: float) -> R:
        """What ``operation`` returns, within so many seconds; it may hold the thread for longer that it is called in.

        It is told by when who asks gives up.

        Raises:
            BackendError: it took longer.
        """
        by = time.monotonic() + seconds
        connection = self._callers_connection()
        if connection is not None:
            return operation(by, connection)
        future: Future[R] = self._threads.submit(partial(operation, by), by)
        try:
            return future.result(self._limit(seconds))
        except TimeoutError as error:
            future.cancel()
            raise self._too_late(seconds) from error

    def _callers_connection(self) -> BaseDatabaseWrapper | None:
        """That of this thread, where a question has to be asked by it: see the class."""
        if in_event_loop():
            return None
        connection = this_threads(self.alias)
        is_open = connection.connection is not None and not connection.autocommit
        return connection if is_open or connection.in_atomic_block or self._in_process else None

    @property
    def _in_process(self) -> bool:
        return not self._dialect.clock

    def _limit(self, seconds: float) -> float | None:
        return None if self._in_process else seconds

    def _within(self, seconds: float, by: float) -> Dialect:
        """Has the server give up first: what nobody waits for any more should not be done after all.

        Raises:
            BackendContention: it waited for so long to be put that there is no time for it.
        """
        left = by - time.monotonic() - (1 - _SERVERS) * seconds
        if self._in_process or left > 0.95 * _SERVERS * seconds:
            return self._in_time[seconds]
        if left <= 0:
            raise self._too_many(seconds)
        return self._dialect.within(left)

    def _too_late(self, seconds: float) -> BackendError:
        if self._threads.overdue():
            return BackendError(f"database {self.alias!r}: no answer within {seconds:g} s")
        return self._too_many(seconds)

    def _too_many(self, seconds: float) -> BackendContention:
        return BackendContention(
            f"database {self.alias!r}: too many questions for an answer within {seconds:g} s", seconds
        )

    # Transactions

    def _run(self, work: Callable[[Rows], R], *, patiently: bool = False) -> R:
        """What ``work`` returns, done in one transaction.

        Raises:
            BackendError: from the driver's own error.
        """
        seconds = _PATIENCE if patiently else self._timeout
        return self._ask(partial(self._attempt, work, seconds), seconds)

    def _attempt(
        self,
        work: Callable[[Rows], R],
        seconds: float,
        by: float,
        connection: BaseDatabaseWrapper,
        shortcut: Callable[[BaseDatabaseWrapper, Dialect], R | None] | None = None,
    ) -> R:
        """What ``work`` returns in a transaction, unless ``shortcut`` has an answer outside of one."""
        attempt = 1
        while True:
            broken = _broken(connection)
            joins, do, dialect = False, self._transact, self._dialect
            try:
                joins = not connection.get_autocommit()  # connects, if it has to
                do = self._join if joins else self._transact
                dialect = self._within(seconds, by)
                found = shortcut(connection, dialect) if shortcut and not joins else None
                return do(connection, work, dialect) if found is None else found
            except Error as error:
                if not joins and attempt < _ATTEMPTS and _code(error) in _BEGIN_AGAIN:
                    attempt += 1
                    continue
                of_caller = broken or (joins and self._is_callers(error))
                if not of_caller and _code(error) in _HELD and self._can_be_read(partial(do, connection), dialect):
                    message = f"database {self.alias!r}: others hold these records: {type(error).__name__}: {error}"
                    raise BackendContention(message, seconds) from error
                raise self._unavailable(error, of_caller) from error

    def _at_once(self, question: Question, connection: BaseDatabaseWrapper, dialect: Dialect) -> list[Verdict] | None:
        """The verdicts, decided in one statement; None where that can't be."""
        now = None if self._clock is None else self._clock()
        for _ in range(2):
            if not self._sessions.have(connection, question.functions):
                break
            try:
                return question.put(self._sessions.cursor(connection), now, dialect.ms)
            except Error as error:
                if _code(error) not in _UNDEFINED:
                    raise
                self._sessions.forget(connection)
        return None

    def _can_be_read(self, do: Callable[[Callable[[Rows], None], Dialect], None], dialect: Dialect) -> bool:
        """Whether records are all that others hold, and not the table: then all would have to wait, at every call."""
        try:
            do(Rows.look, dialect)
        except Error:
            return False
        return True

    def _is_callers(self, error: Error) -> bool:
        """Whether it is about the transaction that was joined, and not about the database."""
        if self._in_process:  # SQLite: a transaction that has read can't write if another has meanwhile
            return "locked" in str(error)
        return _code(error) in {*_BEGIN_AGAIN, _ABORTED}

    def _transact(self, connection: BaseDatabaseWrapper, work: Callable[[Rows], R], dialect: Dialect) -> R:
        """In a transaction of its own; without Django's ``atomic``, which takes more round trips."""
        with self._begun(connection, dialect.begin) as cursor:
            try:
                rows = Rows(cursor, dialect, self._clock)
                result = work(rows)
                cursor.execute("COMMIT" if rows.written else "ROLLBACK")
            except Error:
                try:
                    cursor.execute("ROLLBACK")
                except Error:
                    connection.close()
                raise
            except BaseException:  # interrupted: nobody knows what the connection is in the middle of
                connection.close()
                raise
            return result

    def _join(self, connection: BaseDatabaseWrapper, work: Callable[[Rows], R], dialect: Dialect) -> R:
        """In the transaction that is open on the alias; a savepoint takes back what is denied or fails.

        It takes back the time limit of our statements, too; where it stays, that is put back by hand.
        """
        savepoint = str(connection.savepoint())
        try:
            with connection.cursor() as cursor:
                if dialect.join:
                    cursor.execute(dialect.join)
                before = cursor.fetchone() if dialect.leave else None
                rows = Rows(cursor, dialect, self._clock, joined=True)
                result = work(rows)
                if rows.written and before:
                    cursor.execute(dialect.leave, before[:2])
        except BaseException:
            try:
                connection.savepoint_rollback(savepoint)
            except Error:
                connection.needs_rollback = True  # the database has given up the whole of it
            raise
        if rows.written:
            connection.savepoint_commit(savepoint)
        else:
            connection.savepoint_rollback(savepoint)
        return result

    def _read(self, text: str, parameters: Sequence[str], seconds: float) -> list[tuple[Any, ...]]:
        """One SELECT, outside of any transaction of ours."""

        def read(by: float, connection: BaseDatabaseWrapper) -> list[tuple[Any, ...]]:
            broken = _broken(connection)
            try:
                with self._begun(connection, text, parameters) as cursor:
                    return list(cursor.fetchall())
            except Error as error:
                raise self._unavailable(error, broken or _code(error) == _ABORTED) from error

        return self._ask(read, seconds)

    def _begun(
        self, connection: BaseDatabaseWrapper, text: str, parameters: Sequence[str | int | None] = ()
    ) -> CursorWrapper:
        """A cursor that has executed ``text``; on a new connection, if the old one turns out to have been cut."""
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

    def _now(self) -> str:
        return self._dialect.clock if self._clock is None else str(self._clock())

    def _unavailable(self, error: Error, of_caller: bool) -> BackendError:
        hint = f" (manage.py migrate --database {self.alias} makes the tables)" if RECORDS in str(error) else ""
        if of_caller:
            hint = " (in the transaction that is open on the alias; one of its own has no part in that)"
        unavailable = BackendError(f"database {self.alias!r}: {type(error).__name__}: {error}{hint}")
        unavailable.away = not of_caller
        return unavailable


def _journal(data: str) -> list[str]:
    """The entries of a journal; none if it is none."""
    try:
        entries = json.loads(data)
    except ValueError:
        return []
    return [entry for entry in entries if isinstance(entry, str)] if isinstance(entries, list) else []


def _broken(connection: BaseDatabaseWrapper) -> bool:
    """Whether the caller's transaction takes no more statements."""
    return connection.in_atomic_block and (connection.needs_rollback or connection.closed_in_transaction)


def _dialect(alias: str) -> Dialect:
    try:
        connection = connections[alias]
    except (ConnectionDoesNotExist, ImproperlyConfigured) as error:
        hint = f"give an alias of DATABASES in Django's settings{did_you_mean(alias, connections)}"
        raise ConfigurationError(f"database={alias!r}: {error}; {hint}") from error
    if connection.vendor not in DIALECTS:
        hint = "use SQLite, PostgreSQL, MariaDB or MySQL"
        raise ConfigurationError(f"database={alias!r} is {connection.display_name}; {hint}")
    return DIALECTS[connection.vendor]


_instances = renewed_after_fork(DatabaseBackend._after_fork)
_set_aside: list[BaseDatabaseWrapper | Threads | Sessions] = []
