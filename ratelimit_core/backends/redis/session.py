"""What a backend asks a Redis server, in threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import redis
from redis.exceptions import RedisClusterException

from ...errors import BackendError
from .connections import Connections
from .servers import Servers

ERRORS = (redis.RedisError, RedisClusterException, OSError)  # TimeoutError is an OSError
_UNREACHED = (redis.ConnectionError, redis.TimeoutError, RedisClusterException, OSError)

Command = tuple[Any, ...]
"""The name of a method of redis-py, a key, and the other arguments."""

Script = tuple[str, str, list[Any]]
"""Lua, its SHA-1, and what it is called with: the number of keys, the keys, and the arguments."""

_OTHERS = "no answer to others, who asked a moment before"


class Session:
    """A blocking client, for all threads of this process."""

    def __init__(self, given: Any, servers: Servers | None = None) -> None:
        self._given = given
        self._servers = servers
        self._client = given
        self._lock = threading.Lock()
        self._failures = 0
        self._connections: Connections | None = None

    @property
    def client(self) -> Any:
        """The client, made at the first use: that of a cluster connects then.

        Who waited while another thread failed to connect fails with it: they must not try one after the other.
        """
        client, seen = self._client, self._failures
        if client is None and self._servers is not None:
            with self._lock:
                client = self._client
                if client is None:
                    if self._failures != seen:
                        raise redis.ConnectionError(_OTHERS)
                    try:
                        client = self._servers.client()
                        if not self._servers.clustered:
                            self._connections = Connections(client.connection_pool)
                        self._client = client
                    except ERRORS:
                        self._failures += 1
                        raise
        return client

    def close(self) -> None:
        """Close the connections."""
        client, self._client = self._client, self._given
        connections, self._connections = self._connections, None
        if connections is not None:
            connections.close()
        if self._given is not None:
            self._given.close()
        elif client is not None and self._servers is not None:
            self._servers.close(client)

    def evaluate(self, script: Script) -> Any:
        """What the script answers: one command, two where the server does not know it yet."""
        text, sha, arguments = script
        try:
            client = self._client or self.client
            connections = self._connections
            try:
                if connections is None:
                    return client.evalsha(sha, *arguments)
                return connections.ask("EVALSHA", sha, *arguments)
            except redis.exceptions.NoScriptError:
                if connections is None:
                    return client.eval(text, *arguments)
                return connections.ask("EVAL", text, *arguments)
        except ERRORS as error:
            raise self._away(error) from error

    def send(self, packed: bytes, script: Callable[[], Script]) -> Any:
        """:meth:`evaluate` where the EVALSHA is packed already, over the connections that are made here."""
        connections = self._connections
        if connections is None:
            return self.evaluate(script())  # which connects
        try:
            try:
                return connections.ask(packed=packed)
            except redis.exceptions.NoScriptError:
                text, _, arguments = script()
                return connections.ask("EVAL", text, *arguments)
        except ERRORS as error:
            raise self._away(error) from error

    def _away(self, error: Exception) -> BackendError:
        pool = _outdated(self._client, error)
        if pool is not None:
            pool.disconnect(inuse_connections=False)
            if self._connections is not None:
                self._connections.close()
        return unavailable(error)

    def run(self, commands: Sequence[Command]) -> list[Any]:
        """What the commands answer: one round trip to each server that they go to."""
        try:
            if len(commands) == 1:
                return [_call(self.client, commands[0])]
            return self._pipelined(commands) if commands else []
        except ERRORS as error:
            raise unavailable(error) from error

    def time(self) -> int:
        """The server's, in µs. One round trip."""
        try:
            seconds, fraction = self._node().time()
        except ERRORS as error:
            raise unavailable(error) from error
        return int(seconds) * 1_000_000 + int(fraction)

    def _node(self) -> Any:
        return self.client

    def _pipelined(self, commands: Sequence[Command]) -> list[Any]:
        answers = _pipelined(self.client, commands)
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers


class ClusterSession(Session):
    """The same for a cluster.

    Pipelines go to each of its servers in turn. Those of redis-py would try again, command by command, whatever a
    server that hangs did not answer.
    """

    def _node(self) -> Any:
        return self.client.get_redis_connection(self.client.get_primaries()[0])

    def _pipelined(self, commands: Sequence[Command]) -> list[Any]:
        try:
            answers = self._spread(commands)
        except _UNREACHED:
            self.client.nodes_manager.initialize()  # whoever asks next finds who took over
            raise
        for place, answer in enumerate(answers):
            if isinstance(answer, redis.exceptions.AskError):  # or MovedError: was not done here
                answers[place] = _call(self.client, commands[place])
            elif isinstance(answer, Exception):
                raise answer
        return answers

    def _spread(self, commands: Sequence[Command]) -> list[Any]:
        nodes, parts = {}, dict[str, list[int]]()
        for place, command in enumerate(commands):
            node = self.client.get_node_from_key(command[1])
            nodes[node.name] = node
            parts.setdefault(node.name, []).append(place)
        answers: list[Any] = [None] * len(commands)
        for name, places in parts.items():
            found = _pipelined(self.client.get_redis_connection(nodes[name]), [commands[place] for place in places])
            for place, answer in zip(places, found, strict=True):
                answers[place] = answer
        return answers


def _call(client: Any, command: Command) -> Any:
    return getattr(client, command[0])(*command[1:])


def _pipelined(client: Any, commands: Sequence[Command]) -> list[Any]:
    """What they answer; errors are answers too."""
    with client.pipeline(transaction=False) as pipe:
        for command in commands:
            _call(pipe, command)
        answers: list[Any] = pipe.execute(raise_on_error=False)
    return answers


def _outdated(client: Any, error: BaseException) -> Any:
    """The pool of connections to a server that is not the master any more, if it said so: new ones may find who is."""
    said = isinstance(error, redis.ReadOnlyError) or "READONLY" in str(error)  # before Redis 7, of a script
    return getattr(client, "connection_pool", None) if said else None


def unavailable(error: BaseException) -> BackendError:
    """The error for what the driver raised."""
    return BackendError(f"Redis: {type(error).__name__}: {error}")
