"""Classify the errors of database drivers."""

from __future__ import annotations

from django.db import Error

from ...errors import BackendContention, BackendError
from .sql import RECORDS

BEGIN_AGAIN = frozenset(["40001", "40P01", 1213, 1020])
"""Codes of serialization failures and deadlocks, in PostgreSQL, MariaDB and MySQL. The next attempt may succeed."""
HELD = frozenset(["55P03", 1205, 1969, *BEGIN_AGAIN])
"""Codes that mean that other sessions hold the records: the wait for a lock took too long, or all attempts failed.

In MariaDB, a statement that took too long probably waited for a lock. SQLite has no such code, because it has one lock
for the whole store.
"""
ABORTED = "25P02"
"""Code in PostgreSQL: an earlier statement of the transaction failed, so the transaction takes no more statements."""
UNDEFINED = frozenset(["42883", "3F000"])
"""Codes in PostgreSQL: the function or its schema does not exist."""


def code(error: Error) -> object:
    """Return the database's code for ``error``.

    In MariaDB and MySQL, the code is the error number, not the SQLSTATE, because many errors share one SQLSTATE, and
    some drivers do not report the SQLSTATE.
    """
    first, cause = next(iter(error.args), None), error.__cause__
    return first if isinstance(first, int) else getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)


def is_callers(error: Error, *, in_process: bool) -> bool:
    """Return whether the caller's transaction, not the database, is the cause of ``error``.

    Args:
        in_process: whether the database is SQLite. A transaction in SQLite that has read can't write after another
            connection has written.
    """
    return "locked" in str(error) if in_process else code(error) in {*BEGIN_AGAIN, ABORTED}


def held(alias: str, error: Error, seconds: float) -> BackendContention:
    """Return the error for records that other sessions hold. The call waited for up to ``seconds``."""
    return BackendContention(
        f"database {alias!r}: other sessions hold these records: {type(error).__name__}: {error}", seconds
    )


def unavailable(alias: str, error: Error, *, of_caller: bool) -> BackendError:
    """Return the BackendError for ``error``, which the driver raised.

    Args:
        of_caller: whether the caller's transaction is the cause.
    """
    hint = f" (if the table is missing, run manage.py migrate --database {alias})" if RECORDS in str(error) else ""
    if of_caller:
        hint = " (in the transaction that is open on the alias; give the store a separate alias)"
    failure = BackendError(f"database {alias!r}: {type(error).__name__}: {error}{hint}")
    failure.is_outage = not of_caller
    return failure
