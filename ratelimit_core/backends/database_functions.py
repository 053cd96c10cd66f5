"""Policies as functions of PostgreSQL's, so that a decision is one statement.

A function is made in ``pg_temp``, the session's own schema. So it needs no migration, and it is named after its text,
so that releases that share sessions, behind a pooler, don't share functions.
"""

from __future__ import annotations

import hashlib
import select
from collections.abc import MutableMapping
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from django.db import Error
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper

from ..policies import Policy, Verdict
from .calls import Call
from .database_sql import Parameters, Row, foldless, places


class _Function(NamedTuple):
    """How a policy's function is made, and called."""

    create: str
    ask: str


@cache  # there are few policies
def _function(policy: Policy) -> _Function:
    text = (files("ratelimit_core") / "sql" / f"{policy.name}.sql").read_text("utf-8")
    name = f"pg_temp.{policy.name}_{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    arguments = 6 + bool(policy.leases) + len(policy.event) + len(policy.config)
    return _Function(text.replace("{name}", name, 1), f"SELECT {name}{places(range(arguments))}")


def question(call: Call, row: Row, now: int | None, ms: int) -> tuple[str, Parameters]:
    """The statement that decides ``call``, whose record is ``row``, in so many ms; its answer is the verdict.

    It has to be one transaction. ``now`` decides instead of the server's clock.
    """
    owner = [foldless(call.ticket)] if call.policy.leases else []
    values: Parameters = [row.id, row.prefix, row.name, row.qualifier, now, ms, *owner, *call.event, *call.config]
    return _function(call.policy).ask, values


class Sessions:
    """Which sessions have which functions, and how those are called.

    They are made when a session is asked for the second time: one that is closed after each question, as Django does
    without ``CONN_MAX_AGE`` or a pool, would be slower for it.
    """

    def __init__(self) -> None:
        self._made: MutableMapping[Any, set[Policy]] = WeakKeyDictionary()
        self._cursors: dict[BaseDatabaseWrapper, tuple[object, CursorWrapper]] = {}
        self._wanted = True

    def have(self, connection: BaseDatabaseWrapper, policy: Policy) -> bool:
        """Whether the function of ``policy`` is there; it is made where that pays, and is possible.

        Not where transactions see less than was committed last, unless they say otherwise when they begin.
        """
        made = self._made.get(connection.connection)
        if made is None:
            self._made[connection.connection] = set()
            return False
        if _was_cut(connection):
            connection.close()
            return False
        if policy in made or not self._wanted:
            return policy in made
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT current_setting('transaction_isolation')")
                self._wanted = cursor.fetchone()[0] == "read committed"
                if self._wanted:
                    cursor.execute(_function(policy).create)
                    made.add(policy)
        except Error:
            if not connection.is_usable():
                raise
            self._wanted = False  # there is no right to it, and that won't change soon
        return policy in made

    def ask(self, connection: BaseDatabaseWrapper, text: str, parameters: Parameters) -> Verdict:
        """The answer to a :func:`question`. A cursor is kept: to make one takes as long as the rest of it."""
        session, cursor = self._cursors.get(connection, (None, None))
        if cursor is None or session is not connection.connection:
            cursor = connection.cursor()
            self._cursors[connection] = connection.connection, cursor
        cursor.execute(text, parameters)
        return tuple(cursor.fetchone()[0])

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
