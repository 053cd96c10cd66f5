"""What the errors of database drivers mean."""

from __future__ import annotations

from django.db import Error

from ...errors import BackendContention, BackendError
from .sql import RECORDS

BEGIN_AGAIN = frozenset(["40001", "40P01", 1213, 1020])
"""Serialization failures and deadlocks, in PostgreSQL and MariaDB. The next attempt may succeed."""
HELD = frozenset(["55P03", 1205, 1969, *BEGIN_AGAIN])
"""Other sessions hold the records: the wait for a lock, or in MariaDB for a statement that may need one, took too long,
or all attempts failed. SQLite is not among them, since it has one lock for the whole store."""
ABORTED = "25P02"
"""PostgreSQL: a statement of this transaction has failed, so it takes no more statements."""
UNDEFINED = frozenset(["42883", "3F000"])
"""PostgreSQL: the function, or the schema for it, does not exist."""


def code(error: Error) -> object:
    """Return the database's code for ``error``.

    In MariaDB that is its own number, not the SQLSTATE, which not all drivers know and many errors share.
    """
    first, cause = next(iter(error.args), None), error.__cause__
    return first if isinstance(first, int) else getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)


def is_callers(error: Error, *, in_process: bool) -> bool:
    """Return whether ``error`` is about the caller's transaction, and not about the database.

    Args:
        in_process: the database is SQLite. There, a transaction that has read can't write after another one has.
    """
    return "locked" in str(error) if in_process else code(error) in {*BEGIN_AGAIN, ABORTED}


def held(alias: str, error: Error, seconds: float) -> BackendContention:
    """Return the error for records that other sessions held for ``seconds``."""
    return BackendContention(
        f"database {alias!r}: other sessions hold these records: {type(error).__name__}: {error}", seconds
    )


def unavailable(alias: str, error: Error, *, of_caller: bool) -> BackendError:
    """Return the error for what the driver raised; ``of_caller`` if it is about the caller's transaction."""
    hint = f" (manage.py migrate --database {alias} makes the tables)" if RECORDS in str(error) else ""
    if of_caller:
        hint = " (in the transaction that is open on the alias; an alias of its own for the store avoids that)"
    failure = BackendError(f"database {alias!r}: {type(error).__name__}: {error}{hint}")
    failure.is_outage = not of_caller
    return failure
