"""Policies as functions of PostgreSQL's, so that a decision is one statement.

A function is made in ``pg_temp``, the session's own schema. So it needs no migration, and it is named after its text,
so that releases that share sessions, behind a pooler, don't share functions.
"""

from __future__ import annotations

import hashlib
import select
from collections.abc import MutableMapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from django.db import Error
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper

from ...policies import POLICIES, Verdict
from ...protocol.call import Call
from .sql import Row, foldless, places

TOGETHER = "together"
"""The function that calls the others, where several records are decided at once."""


class _Function(NamedTuple):
    """How a function of ours is made, and called."""

    create: str
    ask: str
    ask_together: str = ""
    """The same where its arguments stand in arrays: see ``together.sql``."""


@cache  # there are few
def _function(name: str) -> _Function:
    text = (files("ratelimit_core") / "sql" / f"{name}.sql").read_text("utf-8")
    named = f"pg_temp.{name}_{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    create = text.replace("{name}", named, 1)
    if name == TOGETHER:
        return _Function(create, f"SELECT {named}{places(range(9))}")
    policy = POLICIES[name]
    texts, numbers = 6 + bool(policy.leases), len(policy.event) + len(policy.config)
    arguments = [f"${i + 1}" for i in range(texts)] + [f"$8[{i + 1}]" for i in range(numbers)]
    return _Function(create, f"SELECT {named}{places(arguments)}", f"SELECT {named}({', '.join(arguments)})")


class Question:
    """Calls, whose records are ``rows``, as one statement; it has to be one transaction."""

    def __init__(self, calls: Sequence[Call], rows: Sequence[Row]) -> None:
        self._calls, self._rows = calls, rows
        self.functions = {call.policy.name for call in calls}
        """What has to be there."""
        if len(calls) > 1:
            self.functions.add(TOGETHER)

    def put(self, cursor: CursorWrapper, now: int | None, ms: int) -> list[Verdict]:
        """The verdicts, if there are any within so many ms. ``now`` decides instead of the server's clock."""
        if len(self._calls) > 1:
            return self._put_together(cursor, now, ms)
        (call,), (row,) = self._calls, self._rows
        owner = [foldless(call.ticket)] if call.policy.leases else []
        values = [row.id, row.prefix, row.name, row.qualifier, now, ms, *owner, *call.event, *call.config]
        cursor.execute(_function(call.policy.name).ask, values)
        return [tuple(cursor.fetchone()[0])]

    def _put_together(self, cursor: CursorWrapper, now: int | None, ms: int) -> list[Verdict]:
        order = sorted(range(len(self._rows)), key=lambda i: self._rows[i].id)
        calls, rows = [self._calls[i] for i in order], [self._rows[i] for i in order]
        values = [
            [_function(call.policy.name).ask_together for call in calls],
            [row.id for row in rows],
            rows[0].prefix,
            [row.name for row in rows],
            [row.qualifier for row in rows],
            [foldless(call.ticket) for call in calls],
            [f"{{{','.join(map(str, call.event + call.config))}}}" for call in calls],
            now,
            ms,
        ]
        cursor.execute(_function(TOGETHER).ask, values)
        found = dict(zip(order, cursor.fetchone()[0], strict=True))
        return [tuple(map(int, found[i].split())) for i in range(len(order))]


class Sessions:
    """Which sessions have which functions, and how those are called.

    They are made when a session is asked for the second time: one that is closed after each question, as Django does
    without ``CONN_MAX_AGE`` or a pool, would be slower for it.
    """

    def __init__(self) -> None:
        self._made: MutableMapping[Any, set[str]] = WeakKeyDictionary()
        self._cursors: dict[BaseDatabaseWrapper, tuple[object, CursorWrapper]] = {}
        self._wanted = True

    def have(self, connection: BaseDatabaseWrapper, functions: set[str]) -> bool:
        """Whether ``functions`` are there; they are made where that pays, and is possible.

        Not where transactions see less than was committed last, unless they say otherwise when they begin.
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
            self._wanted = False  # there is no right to it, and that won't change soon
        return functions <= made

    def cursor(self, connection: BaseDatabaseWrapper) -> CursorWrapper:
        """One that is kept: to make a cursor takes as long as to use it."""
        session, cursor = self._cursors.get(connection, (None, None))
        if cursor is None or session is not connection.connection:
            cursor = connection.cursor()
            self._cursors[connection] = connection.connection, cursor
        return cursor

    def forget(self, connection: BaseDatabaseWrapper) -> None:
        """It has no functions after all: they were discarded, or a pooler gave the connection another session."""
        self._made[connection.connection] = set()


def _was_cut(connection: BaseDatabaseWrapper) -> bool:
    """Whether the server has ended the session while it was idle: it says hardly anything else unasked.

    To be known before a question is put: an error does not tell whether it was decided.
    """
    poll = select.poll()
    poll.register(connection.connection.fileno(), select.POLLIN)
    return bool(poll.poll(0)) and not connection.is_usable()
