"""Talking to Redis: what a backend asks, in the words of redis-py, in threads and in event loops."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import redis
from redis.exceptions import RedisClusterException

from ..errors import BackendError, ConfigurationError
from .redis_clients import Servers

ERRORS = (redis.RedisError, RedisClusterException, OSError)  # TimeoutError is an OSError
_UNREACHED = (redis.ConnectionError, redis.TimeoutError, RedisClusterException, OSError)

Command = tuple[Any, ...]
"""The name of a method of redis-py, a key, and the other arguments."""

Script = tuple[str, str, list[Any]]
"""Lua, its SHA-1, and what it is called with: the number of keys, the keys, and the arguments."""

_OTHERS = "no answer to others, who asked a moment before"


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


class LoopSession:
    """A client of one event loop.

    A question costs at most ``patience``, and ``search`` on top of it as long as nobody has answered. Those that were
    waiting for a connection when Redis failed to answer another fail with it, so that a crowd does not wait one after
    the other.
    """

    def __init__(self, servers: Servers, client: Any) -> None:
        self._servers = servers
        self._client = client
        self._places = asyncio.Semaphore(servers.places)
        self._failures = 0
        self._found = False

    async def evaluate(self, script: Script) -> Any:
        """:meth:`Session.evaluate` without blocking the event loop."""
        seen = self._failures
        async with self._places:
            if self._failures != seen:
                raise BackendError(f"Redis: {_OTHERS}")
            patience = self._servers.patience
            if patience is not None and not self._found:
                patience += self._servers.search
            try:
                async with _within(patience):
                    answer = await self._evaluate(script)
                self._found = True
                return answer
            except ERRORS as error:
                if isinstance(error, _UNREACHED):
                    self._failures += 1
                    self._found = False
                pool = _outdated(self._client, error)
                if pool is not None:
                    await pool.disconnect(inuse_connections=False)
                raise unavailable(error) from error

    async def _evaluate(self, script: Script) -> Any:
        client = self._client
        text, sha, arguments = script
        if self._servers.clustered:
            await client.initialize()
        try:
            return await client.evalsha(sha, *arguments)
        except redis.exceptions.NoScriptError:
            return await client.eval(text, *arguments)

    async def aclose(self) -> None:
        """Close the connections."""
        with suppress(*ERRORS):
            await self._servers.aclose(self._client)


class LoopSessions:
    """One :class:`LoopSession` for each event loop that asks, which ends with its loop."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._known: weakref.WeakKeyDictionary[Any, weakref.ref[LoopSession]] = weakref.WeakKeyDictionary()

    def current(self) -> LoopSession:
        """That of the running loop."""
        loop = asyncio.get_running_loop()
        reference = self._known.get(loop)
        session = reference() if reference is not None else None
        if session is None:
            try:
                client = self._servers.async_client()
            except TypeError as error:
                raise ConfigurationError(f"an option is none of redis.asyncio's: {error}") from error
            session = LoopSession(self._servers, client)
            self._known[loop] = weakref.ref(session)
            _close_with(loop, session.aclose)
        return session


def _close_with(loop: asyncio.AbstractEventLoop, aclose: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Have ``loop.close()`` do this first.

    Connections can be closed only by the loop that they were opened in, and nothing else says when it ends. The
    loop holds what is to be closed, and nobody else does, so a loop that is forgotten takes its connections along.
    """
    close = loop.close

    def closing() -> None:
        try:
            if not loop.is_closed() and not loop.is_running() and asyncio._get_running_loop() is None:
                loop.run_until_complete(aclose())
        finally:
            close()

    loop.close = closing  # type: ignore[method-assign]


@asynccontextmanager
async def _within(seconds: float | None) -> AsyncIterator[None]:
    """Raise TimeoutError if it takes longer.

    Unlike ``asyncio.timeout(seconds)`` it does not count against Redis what arrived in time, but was not looked at
    because something else kept the loop busy: that is handled before what is put off here.
    """
    if seconds is None:
        yield
        return
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(None) as deadline:
            timer = loop.call_later(seconds, lambda: deadline.reschedule(loop.time()))
            try:
                yield
            finally:
                timer.cancel()
    except TimeoutError:
        if deadline.expired():
            raise TimeoutError(f"no answer within {seconds} s") from None
        raise


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
