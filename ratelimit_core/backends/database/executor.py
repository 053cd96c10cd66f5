"""Choose the thread, the connection, the deadline and the number of attempts of a query."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

from django.db import Error
from django.db.backends.base.base import BaseDatabaseWrapper

from ..._util.clock import Clock
from ...errors import BackendContention, BackendError
from .dialects import Dialect
from .faults import ABORTED, BEGIN_AGAIN, HELD, code, held, is_callers, unavailable
from .threads import Threads, in_event_loop, this_threads
from .transaction import Transaction, begin, join, transact

R = TypeVar("R")
Work = Callable[[Transaction], R]
FastPath = Callable[[BaseDatabaseWrapper, Dialect], R | None]
"""A function that answers without a transaction, or returns None if it can't."""

SLOW_TIMEOUT_S = 5.0
"""Upper bound of the duration of work on a whole table, in seconds."""
SERVER_SHARE = 0.8
"""The share of a timeout after which the server ends a statement. So the server usually gives up before the caller."""
MAX_ATTEMPTS = 5
"""The maximum number of attempts if transactions end in a deadlock or a serialization failure."""


class Executor:
    """Executes work on the database of an alias, within a timeout.

    Work runs in one of the backend's threads, on the thread's connection. In some cases, work runs in the caller's
    thread: see :class:`DatabaseBackend`.

    Args:
        clock: a function that returns the time in µs, or None for the database's clock.
        timeout: upper bound of the duration of work, in seconds. Slow work has :data:`SLOW_TIMEOUT_S` instead.
    """

    def __init__(self, alias: str, dialect: Dialect, clock: Clock | None, timeout: float) -> None:
        self.threads = Threads(alias)
        self._alias = alias
        self._dialect = dialect
        self._clock = clock
        self._timeout = timeout
        self._in_time = {seconds: dialect.with_timeout(SERVER_SHARE * seconds) for seconds in (timeout, SLOW_TIMEOUT_S)}
        self._in_process = not dialect.clock

    def run(self, work: Work[R], fast_path: FastPath[R] | None = None, *, slow: bool = False) -> R:
        """Return the result of ``fast_path``, or of ``work`` in a transaction if ``fast_path`` can't answer.

        Args:
            slow: whether the work is on a whole table, and may take :data:`SLOW_TIMEOUT_S`.

        Raises:
            BackendError: the driver raised an error, or the database did not answer in time.
        """
        seconds = SLOW_TIMEOUT_S if slow else self._timeout
        return self._execute(partial(self._attempt, work, fast_path, seconds), seconds)

    async def arun(self, work: Work[R], fast_path: FastPath[R] | None = None) -> R:
        """Do the same as :meth:`run`, without blocking the event loop."""
        seconds = self._timeout
        deadline = time.monotonic() + seconds
        future = self.threads.submit(partial(self._attempt, work, fast_path, seconds, deadline), deadline)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self._limit(seconds))
        except TimeoutError as error:
            raise self._too_late(seconds) from error

    def read(self, text: str, parameters: Sequence[str], *, slow: bool = False) -> list[tuple[Any, ...]]:
        """Return the rows of one SELECT, without beginning a transaction.

        Raises:
            BackendError: the driver raised an error, or the database did not answer in time.
        """

        def read(deadline: float, connection: BaseDatabaseWrapper) -> list[tuple[Any, ...]]:
            broken = _is_broken(connection)
            try:
                with begin(connection, text, parameters) as cursor:
                    return list(cursor.fetchall())
            except Error as error:
                of_caller = broken or code(error) == ABORTED
                raise unavailable(self._alias, error, of_caller=of_caller) from error

        return self._execute(read, SLOW_TIMEOUT_S if slow else self._timeout)

    def renew(self) -> Threads:
        """Replace the parent's threads in a forked child. Return the parent's threads."""
        inherited, self.threads = self.threads, Threads(self._alias)
        return inherited

    def _execute(self, operation: Callable[[float, BaseDatabaseWrapper], R], seconds: float) -> R:
        """Call ``operation`` with a deadline that is ``seconds`` from now, and with a connection.

        Raises:
            BackendError: the deadline passed. In the caller's thread, ``operation`` may run past the deadline.
        """
        deadline = time.monotonic() + seconds
        connection = self._callers_connection()
        if connection is not None:
            return operation(deadline, connection)
        future: Future[R] = self.threads.submit(partial(operation, deadline), deadline)
        try:
            return future.result(self._limit(seconds))
        except TimeoutError as error:
            future.cancel()
            raise self._too_late(seconds) from error

    def _callers_connection(self) -> BaseDatabaseWrapper | None:
        """Return this thread's connection if work has to run on this connection (see the class), otherwise None."""
        if in_event_loop():
            return None
        connection = this_threads(self._alias)
        is_open = connection.connection is not None and not connection.autocommit
        return connection if is_open or connection.in_atomic_block or self._in_process else None

    def _attempt(
        self,
        work: Work[R],
        fast_path: FastPath[R] | None,
        seconds: float,
        deadline: float,
        connection: BaseDatabaseWrapper,
    ) -> R:
        """Try the fast path, then a transaction.

        After a deadlock or a serialization failure, try again unless the transaction is the caller's.
        """
        attempt = 1
        while True:
            broken = _is_broken(connection)
            joins, do, dialect = False, transact, self._dialect
            try:
                joins = not connection.get_autocommit()  # also connects, if necessary
                do = join if joins else transact
                dialect = self._with_deadline(seconds, deadline)
                found = fast_path(connection, dialect) if fast_path and not joins else None
                return do(connection, work, dialect, self._clock) if found is None else found
            except Error as error:
                if not joins and attempt < MAX_ATTEMPTS and code(error) in BEGIN_AGAIN:
                    attempt += 1
                    continue
                of_caller = broken or (joins and is_callers(error, in_process=self._in_process))
                if not of_caller and code(error) in HELD and self._can_be_read(do, connection, dialect):
                    raise held(self._alias, error, seconds) from error
                raise unavailable(self._alias, error, of_caller=of_caller) from error

    def _can_be_read(self, do: Any, connection: BaseDatabaseWrapper, dialect: Dialect) -> bool:
        """Return whether the table can be read. If not, the table is probably locked, and no other call can succeed."""
        try:
            do(connection, Transaction.probe_table, dialect, self._clock)
        except Error:
            return False
        return True

    # Time

    def _limit(self, seconds: float) -> float | None:
        return None if self._in_process else seconds

    def _with_deadline(self, seconds: float, deadline: float) -> Dialect:
        """Return the dialect with a timeout of statements that fits the time until ``deadline``.

        Raises:
            BackendContention: almost no time is left, because the work waited for a thread or a connection.
        """
        left = deadline - time.monotonic() - (1 - SERVER_SHARE) * seconds
        if self._in_process or left > 0.95 * SERVER_SHARE * seconds:
            return self._in_time[seconds]
        if left <= 0:
            raise self._too_many(seconds)
        return self._dialect.with_timeout(left)

    def _too_late(self, seconds: float) -> BackendError:
        if self.threads.overdue():
            return BackendError(f"database {self._alias!r}: no answer within {seconds:g} s")
        return self._too_many(seconds)

    def _too_many(self, seconds: float) -> BackendContention:
        return BackendContention(
            f"database {self._alias!r}: no thread or no connection was free within {seconds:g} s; "
            "there may be too many calls at once",
            seconds,
        )


def _is_broken(connection: BaseDatabaseWrapper) -> bool:
    """Return whether the caller's transaction is broken. It then takes no more statements."""
    return connection.in_atomic_block and (connection.needs_rollback or connection.closed_in_transaction)
