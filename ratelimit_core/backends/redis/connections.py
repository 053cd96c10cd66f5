"""Connections to Redis, without the cost of redis-py's commands."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from typing import Any

import redis


class Connections:
    """redis-py's connections without redis-py's commands, which cost more than the rest of a call.

    The client's pool makes the connections, so they connect, authenticate, ask the Sentinels and time out as usual.
    There are at most ``max_connections`` of them, besides those of the pool, which all other commands use. A connection
    that the server closed while it was idle connects again before anything is sent. Nothing is sent twice.
    """

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._made: weakref.WeakSet[Any] = weakref.WeakSet()  # an interruption may drop one, which then does not count
        self._making = threading.Lock()
        self._master: object = None
        self._idle: deque[Any] = deque()  # its ends are atomic, so threads need no lock

    def execute(self, *command: str | int, packed: bytes = b"") -> Any:
        """Send a command, or one that is packed already, and return the answer."""
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._make()
        try:
            if connection._sock is not None and _is_stale(connection):
                connection.disconnect()
            if connection._sock is None:
                connection.connect()  # sending would do so too, without asking the Sentinels
                self._follow_the_master()
            connection.send_packed_command([packed] if packed else connection.pack_command(*command))
            answer = connection.read_response()
        except redis.ResponseError:
            raise
        except BaseException:  # the answer may still arrive, and would be taken for that of the next command
            connection.disconnect()
            raise
        finally:
            self._idle.append(connection)
        return answer

    def _make(self) -> Any:
        with self._making:
            if len(self._made) >= self._pool.max_connections:
                raise redis.ConnectionError("Too many connections")
            connection = self._pool.connection_class(**self._pool.connection_kwargs)
            self._made.add(connection)
        return connection

    def _follow_the_master(self) -> None:
        """Close idle connections if the Sentinels name another master, since those to the old one may hang."""
        master = getattr(self._pool, "master_address", None)
        if master != self._master:
            self._master = master
            self.close()

    def close(self) -> None:
        """Close idle connections. They connect again when they are used."""
        for _ in range(len(self._idle)):
            try:
                connection = self._idle.popleft()  # now no other thread uses it
            except IndexError:
                return
            connection.disconnect()
            self._idle.append(connection)


def _is_stale(connection: Any) -> bool:
    """Return whether there is something to read before anything was sent. As a rule, the server has closed it."""
    try:
        return bool(connection.can_read(0))
    except (redis.ConnectionError, OSError):
        return True
