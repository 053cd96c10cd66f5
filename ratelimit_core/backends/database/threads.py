"""In whose thread a database is asked: Django's connections belong to one each, and one that hangs holds up its own."""

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

_GIVES_UP: dict[str, dict[str, int]] = {
    "postgresql": {"connect_timeout": 2, "keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3},
    "mysql": {"connect_timeout": 2, "read_timeout": 10, "write_timeout": 10},
}
"""Options, in seconds, by which drivers give up a host that is gone. Those that the alias has go first."""


class Threads:
    """A few threads, each with a connection of its own, in which an alias is asked.

    No driver can be trusted to give up a database that hangs, so who asks gives up, and leaves the thread behind; it
    is of use again once the database or the driver has ended its waiting. They are daemons, for which no program
    waits when it ends, and stop with this object.
    """

    def __init__(self, alias: str, most: int = 8) -> None:
        self._alias, self._most = alias, most
        self._lock = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        self._work: SimpleQueue[_Item] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._connections: list[BaseDatabaseWrapper] = []
        self._asked: dict[int, float] = {}

    def submit(self, operation: Callable[[BaseDatabaseWrapper], R], due: float = inf) -> Future[R]:
        """Have ``operation`` called with a connection; it should have ended by ``due``, on a monotonic clock."""
        future: Future[R] = Future()
        with self._lock:
            if not self._idle.acquire(blocking=False) and len(self._connections) < self._most:
                connection = _of_its_own(self._alias)
                serving = (self._work, self._idle, self._asked, connection)
                threading.Thread(target=_serve, args=serving, daemon=True).start()
                self._connections.append(connection)  # now that it is served: a machine may have no thread to give
            self._work.put((future, operation, due))
        return future

    def overdue(self) -> bool:
        """Whether the database owes an answer. If not, questions that have none are waiting for their turn."""
        now = time.monotonic()
        return any(due <= now for due in list(self._asked.values()))

    def stop(self) -> None:
        """End the threads that there are, and their connections; what is asked later gets new ones."""
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
            with suppress(Exception):  # no request and no task ends here, when Django would look after its connections
                connection.close_if_unusable_or_obsolete()
        idle.release()  # first: who has the answer may ask again at once
        if wanted and error is not None:
            future.set_exception(error)
        elif wanted:
            future.set_result(result)
        del item, future, operation, result, error  # else they would live until the next question
    with suppress(Exception):
        connection.close()


def _of_its_own(alias: str) -> BaseDatabaseWrapper:
    connection: BaseDatabaseWrapper = connections.create_connection(alias)
    given = connection.settings_dict
    options = {**_GIVES_UP.get(connection.vendor, {}), **given["OPTIONS"]}
    connection.settings_dict = {**given, "AUTOCOMMIT": True, "OPTIONS": options}
    connection.inc_thread_sharing()  # made here, used there
    return connection


def in_event_loop() -> bool:
    """Whether this is an event loop's thread, in which Django allows no queries."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def this_threads(alias: str) -> BaseDatabaseWrapper:
    """The connection of this thread; it is closed when the thread ends."""
    connection = connections[alias]
    guard = _threads.guards.get(alias)
    if guard is None or guard.connection is not connection:
        _threads.guards[alias] = _UntilThreadEnds(connection)
    return connection


class _UntilThreadEnds:
    """Closes a thread's connection when the thread ends; not in a forked child, where most threads have ended."""

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
