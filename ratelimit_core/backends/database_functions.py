"""Policies as functions of PostgreSQL's, so that a decision is one statement.

A function is made in ``pg_temp``, the session's own schema. So it needs no migration, and it is named after its text,
so that releases that share sessions, behind a pooler, don't share functions.
"""

from __future__ import annotations

import hashlib
from collections.abc import MutableMapping
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from django.db import Error
from django.db.backends.base.base import BaseDatabaseWrapper

from ..policies import Policy
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
    """Which sessions have which functions.

    They are made when a session is asked for the second time: one that is closed after each question, as Django does
    without ``CONN_MAX_AGE`` or a pool, would be slower for it.
    """

    def __init__(self) -> None:
        self._made: MutableMapping[Any, set[Policy]] = WeakKeyDictionary()
        self._wanted = True

    def have(self, connection: BaseDatabaseWrapper, policy: Policy) -> bool:
        """Whether the function of ``policy`` is there; it is made where that pays, and is possible.

        Not where transactions see less than was committed last, unless they say otherwise when they begin.
        """
        made = self._made.get(connection.connection)
        if made is None:
            self._made[connection.connection] = set()
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
            if connection.is_usable():
                self._wanted = False  # there is no right to it, and that won't change soon
            else:
                connection.close()  # it was cut; the next question gets a new one
        return policy in made

    def forget(self, connection: BaseDatabaseWrapper) -> None:
        """There is none after all: somebody discarded them, or a pooler gave the connection another session."""
        self._made[connection.connection] = set()
