"""Threads that query the database, so that a server that hangs does not block the callers."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from math import inf
from queue import SimpleQueue
from typing import Any, TypeVar

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

R = TypeVar("R")
_Item = tuple[Future[Any], Callable[[BaseDatabaseWrapper], Any], float] | None

DRIVER_TIMEOUTS: dict[str, dict[str, int]] = {
    "postgresql": {"connect_timeout": 2, "keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3},
    "mysql": {"connect_timeout": 2, "read_timeout": 10, "write_timeout": 10},
}
"""Driver options that end the wait for a host that does not answer. Times are in seconds.

``OPTIONS`` of the alias override these options.
"""


class Threads:
    """A few threads that query an alias, each with its own connection.

    No driver reliably times out when the server hangs in the middle of a response. So the caller stops waiting, and the
    thread continues to wait. The thread is used again after the database or the driver has ended its wait. The threads
    are daemons, so they do not keep the program from ending. They stop when this object is freed.
    """

    def __init__(self, alias: str, max_threads: int = 8) -> None:
        self._alias, self._max_threads = alias, max_threads
        self._lock = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        self._work: SimpleQueue[_Item] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._connections: list[BaseDatabaseWrapper] = []
        self._asked: dict[int, float] = {}

    def submit(self, operation: Callable[[BaseDatabaseWrapper], R], due: float = inf) -> Future[R]:
        """Call ``operation`` with a connection, in one of the threads.

        Args:
            due: when ``operation`` should have ended, in seconds of :func:`time.monotonic`.
        """
        future: Future[R] = Future()
        with self._lock:
            if not self._idle.acquire(blocking=False) and len(self._connections) < self._max_threads:
                connection = _make_connection(self._alias)
                serving = (self._work, self._idle, self._asked, connection)
                threading.Thread(target=_serve, args=serving, daemon=True).start()
                self._connections.append(connection)  # after start(), which may raise
            self._work.put((future, operation, due))
        return future

    def overdue(self) -> bool:
        """Return whether the database is late with an answer. If it is not, a late call has waited for a thread."""
        now = time.monotonic()
        return any(due <= now for due in list(self._asked.values()))

    def stop(self) -> None:
        """End the threads and close their connections. Later calls start new threads."""
        with self._lock:
            self._end()
            self._begin()

    def __del__(self) -> None:
        self._end()

    def _end(self) -> None:
        for _ in self._connections:
            self._work.put(None)


def _serve(
    work: SimpleQueue[_Item], idle: threading.Semaphore, asked: dict[int, float], connection: BaseDatabaseWrapper
) -> None:
    me = threading.get_ident()
    while (item := work.get()) is not None:
        future, operation, due = item
        wanted = future.set_running_or_notify_cancel()
        result = error = None
        if wanted:
            asked[me] = due
            try:
                result = operation(connection)
            except BaseException as raised:
                error = raised
            del asked[me]
            with suppress(Exception):  # Django does this only when a request or a task ends
                connection.close_if_unusable_or_obsolete()
        idle.release()  # before the result is set, since the caller may then submit again at once
        if wanted and error is not None:
            future.set_exception(error)
        elif wanted:
            future.set_result(result)
        del item, future, operation, result, error  # otherwise these objects would live until the next call
    with suppress(Exception):
        connection.close()


def _make_connection(alias: str) -> BaseDatabaseWrapper:
    connection: BaseDatabaseWrapper = connections.create_connection(alias)
    given = connection.settings_dict
    options = {**DRIVER_TIMEOUTS.get(connection.vendor, {}), **given["OPTIONS"]}
    connection.settings_dict = {**given, "AUTOCOMMIT": True, "OPTIONS": options}
    connection.inc_thread_sharing()  # Django otherwise allows only the thread that made the connection
    return connection


def in_event_loop() -> bool:
    """Return whether an event loop runs in this thread. Django then allows no queries."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def this_threads(alias: str) -> BaseDatabaseWrapper:
    """Return the connection of this thread. The connection is closed when the thread ends."""
    connection = connections[alias]
    guard = _threads.guards.get(alias)
    if guard is None or guard.connection is not connection:
        _threads.guards[alias] = _UntilThreadEnds(connection)
    return connection


class _UntilThreadEnds:
    """An object that closes a thread's connection when the thread ends.

    A forked child frees the objects of the parent's threads. These objects must not close the parent's connections.
    """

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self.connection, self._process = connection, os.getpid()

    def __del__(self) -> None:
        if self._process == os.getpid():
            with suppress(Exception):
                self.connection.close()


class _Threads(threading.local):
    def __init__(self) -> None:
        self.guards: dict[str, _UntilThreadEnds] = {}


_threads = _Threads()
