"""The backend for Django's databases: PostgreSQL, MySQL, MariaDB and SQLite."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import Any, TypeVar

from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils.connection import ConnectionDoesNotExist

from ..._util.clock import SECOND, Clock, wall
from ..._util.fork import renewed_after_fork
from ..._util.suggest import did_you_mean
from ...config.sources import setting
from ...errors import ConfigurationError
from ...policies import Policy, Verdict
from ...protocol.call import Call, Key, reject_duplicates
from ...protocol.names import unescape
from ..base import Backend
from ..batches import Batches
from .dialects import DIALECTS, Dialect
from .executor import Executor, FastPath, Work
from .functions import ApplyStatement, EachStatement, PgStatement, Sessions
from .sql import BATCH, Row, collation_safe, data_query, keys_query, placeholders, row
from .threads import Threads
from .transaction import Transaction

R = TypeVar("R")

TIMEOUT_S = 0.3
"""The default of ``timeout``, in seconds."""
_JOURNAL = "journal"
"""The value of the column ``policy`` in the rows of journals."""


class DatabaseBackend(Backend):
    """A backend for a database in Django's ``DATABASES``. ``manage.py migrate --database ALIAS`` makes the tables.

    A call is one short transaction. It locks its records in a fixed order, and then reads the time. So counts are exact
    across threads, processes and machines. The clock is the database's. With SQLite, it is the clock of this machine.
    Denied calls are rolled back.

    A call takes 5 statements for any number of records, including BEGIN and COMMIT. It takes up to 3 more for each
    lease set, such as an exact log. It takes up to 7 more if a record is new.

    **PostgreSQL.** A call is one statement for any number of records. The statement calls functions, one for each
    policy. From its second call on, a session creates the functions that it lacks in its schema ``pg_temp``. Calls are
    transactions as described above in these cases:

    * the first call of a session, or a call inside a transaction of the caller;
    * the functions can't be created, for example because the role may not create temporary objects;
    * ``default_transaction_isolation`` is not "read committed".

    A crash of the server may lose the decisions of about the last half second.

    **Use a separate alias** for the store (the setting ``database``). Calls join a transaction that is open on the
    alias. If the caller rolls the transaction back, the decisions are lost, and so is the report of the failure that
    caused the rollback. Until the transaction ends, the records that it used stay locked for other processes. If the
    transaction is broken, calls raise a :class:`BackendError` that does not count as an outage. On SQLite, calls also
    raise such an error ("database is locked") if the transaction has read, and another connection has written since.
    On SQLite, the separate alias needs a separate file.

    **A server that hangs** blocks callers for ``timeout`` at most. Calls run in a few threads of the backend. The
    threads' connections are closed after each call, unless ``CONN_MAX_AGE`` or a pool (``OPTIONS = {"pool": True}``)
    keeps them. A forked child opens its own connections. Open a pool only after the last fork.

    In two cases, calls run in the caller's thread and on the caller's connection, unless an event loop runs there:

    * The database is SQLite. Calls wait for the lock of SQLite up to ``OPTIONS = {"timeout": ...}`` seconds.
    * A transaction is open on the alias. PostgreSQL and MariaDB then end a statement of the backend that takes too
      long. If the server hangs, the call waits as long as the caller's own statements do.

    **Contention.** Calls raise :class:`BackendContention` in three cases: other sessions keep a record locked for most
    of ``timeout``, several attempts end in conflicts with other sessions, or there are too many calls for the threads.
    The database then counts as available. It counts as unavailable if a session keeps a whole table locked for most of
    ``timeout``, or SQLite for its own timeout. MySQL does not end the wait for a locked record in time. So with MySQL,
    the database also counts as unavailable if a record stays locked.

    Args:
        alias: the alias in ``DATABASES``. The default is the setting ``database``.
        timeout: upper bound of a call's duration in seconds, including connecting and waiting for locks. ``keys``,
            ``prune``, and each step of ``clear`` (500 records) may take 5 s. SQLite has no such bound.
        key_prefix: separates applications that share the tables. The default is the setting ``key_prefix``.
        clock: a function that returns the time in µs, instead of the database's clock; for tests.
        options: the other arguments of :class:`Backend`.

    Raises:
        ConfigurationError: the alias does not exist, its database is not supported, or the timeout is wrong.
    """

    def __init__(
        self,
        alias: str | None = None,
        *,
        timeout: float = TIMEOUT_S,
        key_prefix: str | None = None,
        clock: Clock | None = None,
        **options: Any,
    ) -> None:
        super().__init__(clock=clock, **options)
        self.alias = setting("database") if alias is None else alias
        self._prefix = collation_safe(setting("key_prefix") if key_prefix is None else key_prefix)
        if not (type(timeout) in (int, float) and 0.001 <= timeout <= 3600):
            raise ConfigurationError(f"timeout={timeout!r} should be seconds, from 0.001 to 3600")
        self._dialect = _dialect(self.alias)
        self._clock = clock if clock or self._dialect.clock else wall
        self._executor = Executor(self.alias, self._dialect, self._clock, timeout)
        self._sessions = Sessions()
        _instances.add(self)

    def _apply(self, calls: Sequence[Call]) -> list[Verdict]:
        reject_duplicates(calls)
        return self._executor.run(*self._deciding(calls)) if calls else []

    async def _aapply(self, calls: Sequence[Call]) -> list[Verdict]:
        reject_duplicates(calls)
        return await self._executor.arun(*self._deciding(calls)) if calls else []

    def _apply_each(self, batches: Batches, most: int | None) -> list[list[Verdict]]:
        return self._executor.run(*self._deciding_each(batches, most))

    async def _aapply_each(self, batches: Batches, most: int | None) -> list[list[Verdict]]:
        return await self._executor.arun(*self._deciding_each(batches, most))

    def _deciding(self, calls: Sequence[Call]) -> tuple[Work[list[Verdict]], FastPath[list[Verdict]] | None]:
        """Return a function that decides ``calls`` in a transaction, and one that uses one statement, or None."""
        rows = self._rows(calls)
        statement = ApplyStatement(calls, rows) if self._dialect.functions else None
        return partial(Transaction.decide, calls=calls, rows=rows), self._in_one_statement(statement)

    def _deciding_each(
        self, batches: Batches, most: int | None
    ) -> tuple[Work[list[list[Verdict]]], FastPath[list[list[Verdict]]] | None]:
        """Do the same as :meth:`_deciding` for several batches."""
        rows = [self._rows(calls) for calls in batches]
        statement = EachStatement(batches, rows, most) if self._dialect.functions else None
        in_transaction = partial(Transaction.decide_each, batches=batches, rows=rows, most=most)
        return in_transaction, self._in_one_statement(statement)

    def _rows(self, calls: Sequence[Call]) -> list[Row]:
        return [row(self._prefix, call.policy.name, call.key) for call in calls]

    def _in_one_statement(self, statement: PgStatement[R] | None) -> FastPath[R] | None:
        if statement is None:
            return None

        def decide(connection: BaseDatabaseWrapper, dialect: Dialect) -> R | None:
            now = None if self._clock is None else self._clock()
            return self._sessions.decide(connection, statement, now, dialect.ms)

        return decide

    def _delete(self, policy: Policy, keys: Sequence[Key]) -> None:
        ids = [row(self._prefix, policy.name, key).id for key in keys]
        for start in range(0, len(ids), BATCH):
            batch = ids[start : start + BATCH]
            self._executor.run(partial(Transaction.remove, condition=f"id IN {placeholders(batch)}", parameters=batch))

    def _keys(self, policy: Policy, most: int | None) -> list[Key]:
        found = self._executor.read(keys_query(self._now(), most), [self._prefix, policy.name], slow=True)
        return [(unescape(name), unescape(qualifier)) for name, qualifier in found]

    def _clear(self) -> None:
        while self._executor.run(lambda transaction: transaction.remove("prefix = %s", [self._prefix]), slow=True):
            pass

    def _append(self, key: Key, entry: str, keep: int, seconds: int) -> None:
        journal = row(self._prefix, _JOURNAL, key)

        def append(transaction: Transaction) -> None:
            stored = transaction.lock([journal])[journal.id]
            now = transaction.now()
            entries = _journal(stored.data) if stored.expires > now else []
            ends = now + seconds * SECOND
            data = json.dumps([entry, *entries][:keep])  # ASCII, which every database can store
            transaction.replace([stored._replace(expires=ends, data=data, kept_until=ends)], now)

        self._executor.run(append)

    def _entries(self, key: Key) -> list[str]:
        found = self._executor.read(data_query(self._now()), [row(self._prefix, _JOURNAL, key).id])
        return _journal(found[0][0]) if found else []

    def prune(self, batch: int = 1000) -> tuple[int, int]:
        """Delete up to ``batch`` records that have ended, of any prefix, and their leases.

        Locked records are skipped, so a session that locks records does not delay this method. On SQLite, this method
        waits for other writers.

        Returns:
            The number of deleted records, and the number of deleted leases.

        Raises:
            BackendError: the database does not answer.
        """
        return self._executor.run(lambda transaction: transaction.remove_ended(transaction.now(), batch), slow=True)

    def close(self) -> None:
        """Close the backend's connections, and this thread's connection unless a transaction is open on it."""
        self._executor.threads.stop()
        self._sessions = Sessions()
        connection = connections[self.alias]
        if not connection.in_atomic_block:
            connection.close()

    def _now(self) -> str:
        return self._dialect.clock if self._clock is None else str(self._clock())

    def _after_fork(self) -> None:
        """Replace the parent's connections in a forked child.

        If the child closed or freed a connection of the parent, the parent's session would end. So the child keeps
        these connections without using them.
        """
        _leaked_on_fork.extend([self._executor.renew(), self._sessions])
        self._sessions = Sessions()
        for connection in connections.all(initialized_only=True):
            if connection.alias == self.alias:
                _leaked_on_fork.append(connection)
                del connections[self.alias]


def _journal(data: str) -> list[str]:
    """Return the entries of the journal in ``data``, or an empty list if ``data`` is invalid."""
    try:
        entries = json.loads(data)
    except ValueError:
        return []
    return [entry for entry in entries if isinstance(entry, str)] if isinstance(entries, list) else []


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
_leaked_on_fork: list[BaseDatabaseWrapper | Threads | Sessions] = []
