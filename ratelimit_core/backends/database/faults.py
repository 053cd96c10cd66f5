"""What the errors of database drivers mean."""

from __future__ import annotations

from django.db import Error

_BEGIN_AGAIN = frozenset(["40001", "40P01", 1213, 1020])
"""Serialization failures and deadlocks, in PostgreSQL and MariaDB: nobody is to blame, the next attempt may do."""
_HELD = frozenset(["55P03", 1205, 1969, *_BEGIN_AGAIN])
"""Others hold what we want: the wait for it took too long (in MariaDB, a statement that may have had to wait for it),
or the attempts are used up. SQLite has one lock, which is the whole store's."""
_ABORTED = "25P02"
"""PostgreSQL: a statement of this transaction has failed, and none is heard any more."""
_UNDEFINED = frozenset(["42883", "3F000"])
"""PostgreSQL: there is no such function, or not even a schema for it."""


def _code(error: Error) -> object:
    """The database's own number for it; of MariaDB not the SQLSTATE, which some drivers know and many errors share."""
    first, cause = next(iter(error.args), None), error.__cause__
    return first if isinstance(first, int) else getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
