"""The policies as functions in PostgreSQL, so that a decision is one statement.

Functions are created in ``pg_temp``, the session's own schema, so they need no migration. The name of a function ends
in a digest of its text. So two releases that share a session behind a pooler do not call each other's functions.
"""

from __future__ import annotations

import hashlib
import select
from collections.abc import MutableMapping, Sequence
from functools import cache
from importlib.resources import files
from itertools import accumulate, islice
from typing import Any, NamedTuple, Protocol, TypeVar
from weakref import WeakKeyDictionary

from django.db import Error
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper

from ...policies import EXPIRES, POLICIES, Policy, Verdict
from ...protocol.call import Call
from ..batches import Batches
from .faults import UNDEFINED, code
from .sql import Row, collation_safe, placeholders

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

TOGETHER = "apply_together"
"""The name of the function that decides several calls. It calls the functions of the policies."""
EACH = "apply_each"
"""The name of the function that decides several batches of calls. It calls the functions of the policies."""
_PARAMETERS = {TOGETHER: 9, EACH: 12}


class _Function(NamedTuple):
    """The statements that create and call one function."""

    create: str
    ask: str
    """The SELECT that calls the function."""
    ask_together: str = ""
    """The SELECT with which ``apply_together.sql`` and ``apply_each.sql`` call the function."""


@cache  # unbounded, since functions are few
def _function(name: str) -> _Function:
    if name in _PARAMETERS:
        named, create = _named(name, _sql("backends/database", name))
        return _Function(create, f"SELECT {named}{placeholders(range(_PARAMETERS[name]))}")
    policy = POLICIES[name]
    named, create = _named(name, _text_of(policy))
    numbers = len(policy.event) + len(policy.config)
    arguments = [f"${i + 1}" for i in range(7)] + [f"$8[{i + 1}]" for i in range(numbers)]
    return _Function(create, f"SELECT {named}{placeholders(arguments)}", f"SELECT {named}({', '.join(arguments)})")


def _text_of(policy: Policy) -> str:
    """Return the text of a policy's function: the template, with the policy's generated block and numbers filled in."""
    last = EXPIRES + 1 + len(policy.record)  # SQL arrays begin at index 1
    drop, add, ends = (f"_verdict[{last + i}]" if policy.leases else "0" for i in (1, 2, 3))
    parts = {
        "parameters": ", ".join(f'"{name}" bigint' for name in (*policy.event, *policy.config)),
        "decide": _sql("policies/generated/sql", policy.name),
        "policy": policy.name,
        "version": str(policy.version),
        "width": str(len(policy.record)),
        "last": str(last),
        "blank": f"{{{','.join(map(str, policy.blank))}}}",
        "drop": drop,
        "add": add,
        "ends": ends,
    }
    text = _sql("backends/database", "apply_call")
    for part, value in parts.items():
        text = text.replace(f"{{{part}}}", value)
    return text


def _sql(folder: str, name: str) -> str:
    return files("ratelimit_core").joinpath(folder, f"{name}.sql").read_text("utf-8")


def _named(name: str, text: str) -> tuple[str, str]:
    """Return the function's name, which ends in a digest of its text, and the statement that creates it."""
    named = f"pg_temp.{name}_{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    return named, text.replace("{name}", named, 1)


class PgStatement(Protocol[R_co]):
    """A statement that decides calls. Execute it outside any transaction."""

    @property
    def functions(self) -> set[str]:
        """The names of the functions that the statement calls."""

    def execute(self, cursor: CursorWrapper, now: int | None, ms: int) -> R_co:
        """Return the verdicts.

        Args:
            now: the time in µs, or None for the server's clock.
            ms: the time in milliseconds after which the statement writes nothing and raises an error.
        """


class ApplyStatement:
    """A statement that decides calls, whose records are ``rows``."""

    def __init__(self, calls: Sequence[Call], rows: Sequence[Row]) -> None:
        self._calls, self._rows = calls, rows
        self.functions = {call.policy.name for call in calls}
        if len(calls) > 1:
            self.functions.add(TOGETHER)

    def execute(self, cursor: CursorWrapper, now: int | None, ms: int) -> list[Verdict]:
        """Return the verdicts: see :class:`PgStatement`."""
        if len(self._calls) > 1:
            return self._execute_together(cursor, now, ms)
        (call,), (row,) = self._calls, self._rows
        owner = collation_safe(call.lease_id) if call.policy.leases else ""
        values = [row.id, row.prefix, row.name, row.qualifier, now, ms, owner, *call.event, *call.config]
        cursor.execute(_function(call.policy.name).ask, values)
        return [tuple(cursor.fetchone()[0])]

    def _execute_together(self, cursor: CursorWrapper, now: int | None, ms: int) -> list[Verdict]:
        order = _order(self._rows)
        calls, rows = [self._calls[i] for i in order], [self._rows[i] for i in order]
        values = [
            _asks(calls),
            [row.id for row in rows],
            rows[0].prefix,
            [row.name for row in rows],
            [row.qualifier for row in rows],
            _owners(calls),
            _numbers(calls),
            now,
            ms,
        ]
        cursor.execute(_function(TOGETHER).ask, values)
        found = dict(zip(order, cursor.fetchone()[0], strict=True))
        return [_verdict(found[i]) for i in range(len(order))]


class EachStatement:
    """A statement that decides batches of calls, whose records are ``rows``, until ``most`` of them are allowed."""

    def __init__(self, batches: Batches, rows: Sequence[Sequence[Row]], most: int | None) -> None:
        self._batches, self._rows, self._most = batches, rows, most
        self.functions = {EACH, *(call.policy.name for calls in batches for call in calls)}

    def execute(self, cursor: CursorWrapper, now: int | None, ms: int) -> list[list[Verdict]]:
        """Return the verdicts of the batches that were decided: see :class:`PgStatement`."""
        orders = [_order(rows) for rows in self._rows]
        calls = [calls[i] for calls, order in zip(self._batches, orders, strict=True) for i in order]
        rows = [rows[i] for rows, order in zip(self._rows, orders, strict=True) for i in order]
        values = [
            _asks(calls),
            [row.id for row in rows],
            rows[0].prefix,
            [row.policy for row in rows],
            [row.name for row in rows],
            [row.qualifier for row in rows],
            _owners(calls),
            _numbers(calls),
            list(accumulate(map(len, orders))),
            self._most,
            now,
            ms,
        ]
        cursor.execute(_function(EACH).ask, values)
        texts = iter(cursor.fetchone()[0])
        decided = (dict(zip(order, islice(texts, len(order)), strict=False)) for order in orders)
        return [[_verdict(found[i]) for i in range(len(found))] for found in decided]


def _order(rows: Sequence[Row]) -> list[int]:
    """Return the indices of ``rows`` in the order of the ids."""
    return sorted(range(len(rows)), key=lambda i: rows[i].id)


def _asks(calls: Sequence[Call]) -> list[str]:
    return [_function(call.policy.name).ask_together for call in calls]


def _owners(calls: Sequence[Call]) -> list[str]:
    return [collation_safe(call.lease_id) for call in calls]


def _numbers(calls: Sequence[Call]) -> list[str]:
    return [f"{{{','.join(map(str, call.event + call.config))}}}" for call in calls]


def _verdict(text: str) -> Verdict:
    return tuple(map(int, text.split()))


class Sessions:
    """The functions that each session of the database has.

    The first call of a session creates no functions. Without ``CONN_MAX_AGE`` or a pool, Django closes the session
    after each call, so creating functions would only make this call slower.
    """

    def __init__(self) -> None:
        self._made: MutableMapping[Any, set[str]] = WeakKeyDictionary()
        self._cursors: dict[BaseDatabaseWrapper, tuple[object, CursorWrapper]] = {}
        self._wanted = True

    def decide(self, connection: BaseDatabaseWrapper, statement: PgStatement[R], now: int | None, ms: int) -> R | None:
        """Execute ``statement`` and return the verdicts, or None if the session lacks its functions.

        ``now`` and ``ms`` are passed to :meth:`PgStatement.execute`.
        """
        for _ in range(2):
            if not self._have(connection, statement.functions):
                break
            try:
                return statement.execute(self._cursor(connection), now, ms)
            except Error as error:
                if code(error) not in UNDEFINED:
                    raise
                self._forget(connection)
        return None

    def _have(self, connection: BaseDatabaseWrapper, functions: set[str]) -> bool:
        """Return whether the session has ``functions``. After its first call, create missing functions if possible.

        No function is created if transactions are not "read committed" by default. With another isolation, a statement
        does not see what other transactions committed while it waited for a lock, and it can't change the isolation.

        After an error or with another isolation, no session of this object creates functions any more.
        """
        made = self._made.get(connection.connection)
        if made is None:
            self._made[connection.connection] = set()
            return False
        if _was_cut(connection):
            connection.close()
            return False
        if functions <= made or not self._wanted:
            return functions <= made
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT current_setting('transaction_isolation')")
                self._wanted = cursor.fetchone()[0] == "read committed"
                for name in functions - made if self._wanted else ():
                    cursor.execute(_function(name).create)
                    made.add(name)
        except Error:
            if not connection.is_usable():
                raise
            self._wanted = False  # usually the role may not create functions, which will not change soon
        return functions <= made

    def _cursor(self, connection: BaseDatabaseWrapper) -> CursorWrapper:
        """Return the connection's cursor. It is reused, because making a cursor takes as long as using it."""
        session, cursor = self._cursors.get(connection, (None, None))
        if cursor is None or session is not connection.connection:
            cursor = connection.cursor()
            self._cursors[connection] = connection.connection, cursor
        return cursor

    def _forget(self, connection: BaseDatabaseWrapper) -> None:
        """Note that the session lacks the functions. They were discarded, or a pooler switched to another session."""
        self._made[connection.connection] = set()


def _was_cut(connection: BaseDatabaseWrapper) -> bool:
    """Return whether the server has closed the idle connection.

    Check this before a statement is sent: a later error would not show whether the statement was executed. Only if an
    idle connection has unread data, a round trip tests it. The server rarely sends such data unless it closes the
    connection.
    """
    poll = select.poll()
    poll.register(connection.connection.fileno(), select.POLLIN)
    return bool(poll.poll(0)) and not connection.is_usable()
