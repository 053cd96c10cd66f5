"""Whose thread it is: Django's connections belong to one each."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

R = TypeVar("R")


def this_threads(alias: str) -> BaseDatabaseWrapper:
    """The connection of this thread; it is closed when the thread ends."""
    connection = connections[alias]
    guard = _threads.guards.get(alias)
    if guard is None or guard.connection is not connection:
        _threads.guards[alias] = _UntilThreadEnds(connection)
    return connection


def off_loop(operation: Callable[[], R]) -> R:
    """What ``operation`` returns. Django allows no queries in an event loop's thread: there another one asks."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return operation()
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(operation).result()


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
