"""Connections to Redis, without the cost of redis-py's commands."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from typing import Any

import redis


class Connections:
    """redis-py's connections without the machinery of its commands, which costs more than all else of a question.

    They are as the client's pool would make them: so they connect, authenticate, ask the Sentinels and time out. Here
    are at most ``max_connections`` of them, beside those of the pool, which are for all other commands. One that the
    server has closed while it lay idle connects anew before anything is sent. Nothing is sent twice.
    """

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._made: weakref.WeakSet[Any] = weakref.WeakSet()  # what an interruption left to nobody is no more
        self._making = threading.Lock()
        self._master: object = None
        self._idle: deque[Any] = deque()  # its ends are atomic, so threads need no lock

    def ask(self, *command: str | int, packed: bytes = b"") -> Any:
        """What the server answers to a command, which may be packed already."""
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._make()
        try:
            if connection._sock is not None and _is_stale(connection):
                connection.disconnect()
            if connection._sock is None:
                connection.connect()  # to send would do so too, but not to whom the Sentinels name
                self._follow_the_master()
            connection.send_packed_command([packed] if packed else connection.pack_command(*command))
            answer = connection.read_response()
        except redis.ResponseError:
            raise
        except BaseException:  # perhaps the answer is still on its way: nobody else may take it for theirs
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
        """The Sentinels name another one: those to the old one may hang for as long as it does."""
        master = getattr(self._pool, "master_address", None)
        if master != self._master:
            self._master = master
            self.close()

    def close(self) -> None:
        """Close those that are idle; they connect anew if they are needed again."""
        for _ in range(len(self._idle)):
            try:
                connection = self._idle.popleft()  # now it is nobody else's
            except IndexError:
                return
            connection.disconnect()
            self._idle.append(connection)


def _is_stale(connection: Any) -> bool:
    """Whether there is something to read before anything was asked: as a rule, that it has been closed."""
    try:
        return bool(connection.can_read(0))
    except (redis.ConnectionError, OSError):
        return True
