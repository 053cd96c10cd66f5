"""Execute Redis commands faster than redis-py's clients do."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from typing import Any

import redis


class Connections:
    """A pool of redis-py's connections that executes commands itself.

    redis-py's own methods for commands take more time than the rest of a call.

    Connections are configured by the client's pool. So they connect, authenticate, ask the Sentinels and time out as
    usual. At most ``max_connections`` are made. The client's pool, which all other commands use, has connections of its
    own. If the server has closed an idle connection, the connection is opened again before a command is sent. No
    command is sent twice.
    """

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._made: weakref.WeakSet[Any] = weakref.WeakSet()  # weak, since an interruption may lose a connection
        self._making = threading.Lock()
        self._master: object = None
        self._idle: deque[Any] = deque()  # append and pop are atomic, so threads need no lock

    def execute(self, *command: str | int, packed: bytes = b"") -> Any:
        """Send ``command``, or ``packed`` if given, and return the answer."""
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._make()
        try:
            if connection._sock is not None and _is_stale(connection):
                connection.disconnect()
            if connection._sock is None:
                connection.connect()  # sending would also connect, but without asking the Sentinels
                self._follow_the_master()
            connection.send_packed_command([packed] if packed else connection.pack_command(*command))
            answer = connection.read_response()
        except redis.ResponseError:
            raise
        except BaseException:  # the answer may still arrive, and be mistaken for the answer to the next command
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
        """Close idle connections if the Sentinels name another master: connections to the old master may hang."""
        master = getattr(self._pool, "master_address", None)
        if master != self._master:
            self._master = master
            self.close()

    def close(self) -> None:
        """Close idle connections. A closed connection connects again at its next use."""
        for _ in range(len(self._idle)):
            try:
                connection = self._idle.popleft()  # so that no other thread uses it meanwhile
            except IndexError:
                return
            connection.disconnect()
            self._idle.append(connection)


def _is_stale(connection: Any) -> bool:
    """Return whether the idle connection is closed or has unread data. Such data usually means that it was closed."""
    try:
        return bool(connection.can_read(0))
    except (redis.ConnectionError, OSError):
        return True
