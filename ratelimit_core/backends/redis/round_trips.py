"""Round trips to a Redis server from threads. Round trips from event loops are in :mod:`.aio`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import redis
from redis.exceptions import RedisClusterException

from ...errors import BackendError
from .connections import Connections
from .servers import Topology

ERRORS = (redis.RedisError, RedisClusterException, OSError)  # OSError includes TimeoutError
UNREACHED = (redis.ConnectionError, redis.TimeoutError, RedisClusterException, OSError)

Command = tuple[Any, ...]
"""A call of redis-py: the name of the method, the key, and the other arguments."""

Script = tuple[str, str, list[Any]]
"""Lua, its SHA-1, and its parameters: the number of keys, the keys, and the arguments."""

FAILED_WITH_OTHERS = "not sent, because the server did not answer an earlier call while this call was waiting"


class Session:
    """A blocking client for all threads of this process.

    Args:
        given: a client of the application, or None.
        topology: makes the client if ``given`` is None.
    """

    def __init__(self, given: Any, topology: Topology | None = None) -> None:
        self._given = given
        self._topology = topology
        self._client = given
        self._lock = threading.Lock()
        self._failures = 0
        self._connections: Connections | None = None

    @property
    def client(self) -> Any:
        """The client. It is made at the first use, and a cluster's client connects when it is made.

        If making the client fails in one thread, the threads that waited for the client fail as well, because each of
        them would wait for its own timeout.
        """
        client, seen = self._client, self._failures
        if client is None and self._topology is not None:
            with self._lock:
                client = self._client
                if client is None:
                    if self._failures != seen:
                        raise redis.ConnectionError(FAILED_WITH_OTHERS)
                    try:
                        client = self._topology.client()
                        if not self._topology.clustered:
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
        elif client is not None and self._topology is not None:
            self._topology.close(client)

    def evaluate(self, script: Script) -> Any:
        """Run the script and return the answer. Costs one round trip, or two if the server lacks the script."""
        text, sha, arguments = script
        try:
            client = self._client or self.client
            connections = self._connections
            try:
                if connections is None:
                    return client.evalsha(sha, *arguments)
                return connections.execute("EVALSHA", sha, *arguments)
            except redis.exceptions.NoScriptError:
                if connections is None:
                    return client.eval(text, *arguments)
                return connections.execute("EVAL", text, *arguments)
        except ERRORS as error:
            raise self._unavailable(error) from error

    def send(self, packed: bytes, script: Callable[[], Script]) -> Any:
        """Do the same as :meth:`evaluate`, with an EVALSHA whose bytes are ``packed``."""
        connections = self._connections
        if connections is None:
            return self.evaluate(script())  # also connects
        try:
            try:
                return connections.execute(packed=packed)
            except redis.exceptions.NoScriptError:
                text, _, arguments = script()
                return connections.execute("EVAL", text, *arguments)
        except ERRORS as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: Exception) -> BackendError:
        """Return the BackendError for ``error``. If the server is no longer the master, close the connections to it."""
        pool = outdated_pool(self._client, error)
        if pool is not None:
            pool.disconnect(inuse_connections=False)
            if self._connections is not None:
                self._connections.close()
        return unavailable(error)

    def execute(self, commands: Sequence[Command]) -> list[Any]:
        """Execute the commands and return the answers. Costs one round trip to each server that has one of the keys."""
        try:
            if len(commands) == 1:
                return [_call(self.client, commands[0])]
            return self._pipelined(commands) if commands else []
        except ERRORS as error:
            raise unavailable(error) from error

    def time(self) -> int:
        """Return the server's time in µs. Costs one round trip."""
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
    """A blocking client of a cluster.

    It sends one pipeline to each server. redis-py's own cluster pipelines are not used, because they repeat each
    command for a server that hangs.
    """

    def _node(self) -> Any:
        return self.client.get_redis_connection(self.client.get_primaries()[0])

    def _pipelined(self, commands: Sequence[Command]) -> list[Any]:
        try:
            answers = self._spread(commands)
        except UNREACHED:
            self.client.nodes_manager.initialize()  # the next call finds the new master
            raise
        for i, answer in enumerate(answers):
            if isinstance(answer, redis.exceptions.AskError):  # includes MovedError; the command was not executed
                answers[i] = _call(self.client, commands[i])
            elif isinstance(answer, Exception):
                raise answer
        return answers

    def _spread(self, commands: Sequence[Command]) -> list[Any]:
        nodes, parts = {}, dict[str, list[int]]()
        for i, command in enumerate(commands):
            node = self.client.get_node_from_key(command[1])
            nodes[node.name] = node
            parts.setdefault(node.name, []).append(i)
        answers: list[Any] = [None] * len(commands)
        for name, indices in parts.items():
            found = _pipelined(self.client.get_redis_connection(nodes[name]), [commands[i] for i in indices])
            for i, answer in zip(indices, found, strict=True):
                answers[i] = answer
        return answers


def _call(client: Any, command: Command) -> Any:
    return getattr(client, command[0])(*command[1:])


def _pipelined(client: Any, commands: Sequence[Command]) -> list[Any]:
    """Execute the commands in one pipeline. Some of the returned answers may be errors."""
    with client.pipeline(transaction=False) as pipe:
        for command in commands:
            _call(pipe, command)
        answers: list[Any] = pipe.execute(raise_on_error=False)
    return answers


def outdated_pool(client: Any, error: BaseException) -> Any:
    """Return the pool of ``client`` if ``error`` says that the server is no longer the master, otherwise None."""
    said = isinstance(error, redis.ReadOnlyError) or "READONLY" in str(error)  # the error of a script before Redis 7
    return getattr(client, "connection_pool", None) if said else None


def unavailable(error: BaseException) -> BackendError:
    """Return the BackendError for ``error``, which the driver raised."""
    return BackendError(f"Redis: {type(error).__name__}: {error}")
