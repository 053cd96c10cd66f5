"""Records in a database of Django's: PostgreSQL, MySQL, MariaDB and SQLite."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

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
from .dialects import DIALECTS, Dialect
from .executor import Executor, FastPath
from .functions import PgStatement, Sessions
from .sql import BATCH, collation_safe, data_query, keys_query, placeholders, row
from .threads import Threads
from .transaction import Transaction

TIMEOUT_S = 0.3
"""How long a call may take by default."""
_JOURNAL = "journal"
"""Journals are records with this name instead of a policy's."""


class DatabaseBackend(Backend):
    """State in a database of Django's ``DATABASES``. ``manage.py migrate --database ALIAS`` makes its tables.

    A call is one short transaction. It locks the records in one fixed order, and then reads the time. So it is exact
    among threads, processes and machines, by the database's clock (SQLite: this machine's). Denied calls are rolled
    back. A call takes 5 statements, BEGIN and COMMIT included, however many records it decides; up to 3 more for each
    exact log or other set of leases; up to 7 more if a record is new.

    **On PostgreSQL a call is one statement**, however many records it decides and whatever it decides. Policies are
    functions there, which a session creates in its ``pg_temp`` when it is asked for the second time. The paragraph
    above applies to a session's first call, inside transactions of the caller, if the role may not create temporary
    objects, and if ``default_transaction_isolation`` is not "read committed". A crash of the server may lose the
    decisions of the last half second, as with Redis.

    **Use an alias of its own** (the setting ``database``). While a transaction is open on the alias, calls join it. A
    rollback then undoes what was decided, such as the failure that caused the rollback, and records stay locked for
    other processes until the transaction ends. A broken transaction takes no calls. Nor does a transaction of SQLite
    that has read before another connection wrote ("database is locked"). Both raise a BackendError that does not count
    as an outage. On SQLite an alias of its own is a separate file.

    **A server that hangs** blocks no caller for longer than ``timeout``. Calls run in a few threads of the backend,
    whose connections are closed after each call unless ``CONN_MAX_AGE`` or a pool (``OPTIONS = {"pool": True}``) keeps
    them. In two cases a call runs in the caller's thread, on its connection. One is SQLite, which waits for its lock as
    long as ``OPTIONS = {"timeout": ...}`` says. The other is a transaction that is open on the alias. There, PostgreSQL
    and MariaDB end a statement of the backend that takes too long. If the server does not even do that, the call waits,
    as the caller's own statements do. A forked child makes connections of its own. Open a pool only after the last
    fork.

    **A record that other sessions hold** for that long, or too many calls for these threads, is a
    :class:`BackendContention`: the database is available, and other records are answered. A session that locks
    a whole table, or that writes to SQLite for that long, blocks every caller: that counts as unavailable. MySQL
    does not end the wait for a record so soon, which can't be told from a server that hangs.

    Args:
        alias: the setting ``database`` by default.
        timeout: seconds that a call may take, connecting and waiting for locks included. Work on a whole table
            (``keys``, ``clear``, ``prune``) may take 5 s.
        key_prefix: give two applications that share the tables two prefixes; the setting ``key_prefix`` by default.
        clock: decides instead of the database's clock; for tests.
        options: those of :class:`Backend`.

    Raises:
        ConfigurationError: the alias does not exist, or its database is not supported, or the timeout is wrong.
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

    def _deciding(
        self, calls: Sequence[Call]
    ) -> tuple[Callable[[Transaction], list[Verdict]], FastPath[list[Verdict]] | None]:
        """Return what decides ``calls`` in a transaction, and what decides them in one statement, if possible."""
        rows = [row(self._prefix, call.policy.name, call.key) for call in calls]
        statement = PgStatement(calls, rows) if self._dialect.functions else None

        def in_transaction(transaction: Transaction) -> list[Verdict]:
            return transaction.decide(calls, rows)

        return in_transaction, None if statement is None else partial(self._in_one_statement, statement)

    def _in_one_statement(
        self, statement: PgStatement, connection: BaseDatabaseWrapper, dialect: Dialect
    ) -> list[Verdict] | None:
        now = None if self._clock is None else self._clock()
        return self._sessions.decide(connection, statement, now, dialect.ms)

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
        """Delete up to ``batch`` records that have ended, of any prefix, and their leases. Returns how many of each.

        It skips locked records, so no caller waits for it, and it waits for no caller.
        """
        return self._executor.run(lambda transaction: transaction.remove_ended(transaction.now(), batch), slow=True)

    def close(self) -> None:
        """Close the connections of the backend, and this thread's unless a transaction is open on it."""
        self._executor.threads.stop()
        self._sessions = Sessions()
        connection = connections[self.alias]
        if not connection.in_atomic_block:
            connection.close()

    def _now(self) -> str:
        return self._dialect.clock if self._clock is None else str(self._clock())

    def _after_fork(self) -> None:
        """Leave the parent's connections alone in a child: closing one there would end the parent's session.

        They are kept, since freeing them would close them.
        """
        _leaked_on_fork.extend([self._executor.renew(), self._sessions])
        self._sessions = Sessions()
        for connection in connections.all(initialized_only=True):
            if connection.alias == self.alias:
                _leaked_on_fork.append(connection)
                del connections[self.alias]


def _journal(data: str) -> list[str]:
    """Return the entries of a journal; none if ``data`` is not valid."""
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
