"""Round trips to a Redis server from event loops. Round trips from threads are in :mod:`.round_trips`."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

import redis

from ...errors import BackendError, ConfigurationError
from .round_trips import ERRORS, FAILED_WITH_OTHERS, UNREACHED, Script, outdated_pool, unavailable
from .servers import Topology


class LoopSession:
    """A client of one event loop.

    At most ``max_in_flight`` calls are in flight, and further calls wait for a place. After this wait, a call takes at
    most the topology's ``timeout``, and ``discovery_timeout`` more at first and after a failure. If Redis does not
    answer a call, the calls that wait for a place fail as well, because each of them would wait for its own timeout.
    """

    def __init__(self, topology: Topology, client: Any) -> None:
        self._topology = topology
        self._client = client
        self._free = asyncio.Semaphore(topology.max_in_flight)
        self._failures = 0
        self._found = False

    async def evaluate(self, script: Script) -> Any:
        """Do the same as :meth:`.round_trips.Session.evaluate`, without blocking the event loop."""
        seen = self._failures
        async with self._free:
            if self._failures != seen:
                raise BackendError(f"Redis: {FAILED_WITH_OTHERS}")
            timeout = self._topology.timeout
            if timeout is not None and not self._found:
                timeout += self._topology.discovery_timeout
            try:
                async with _deadline(timeout):
                    answer = await self._evaluate(script)
                self._found = True
                return answer
            except ERRORS as error:
                if isinstance(error, UNREACHED):
                    self._failures += 1
                    self._found = False
                pool = outdated_pool(self._client, error)
                if pool is not None:
                    await pool.disconnect(inuse_connections=False)
                raise unavailable(error) from error

    async def _evaluate(self, script: Script) -> Any:
        client = self._client
        text, sha, arguments = script
        if self._topology.clustered:
            await client.initialize()
        try:
            return await client.evalsha(sha, *arguments)
        except redis.exceptions.NoScriptError:
            return await client.eval(text, *arguments)

    async def aclose(self) -> None:
        """Close the connections."""
        with suppress(*ERRORS):
            await self._topology.aclose(self._client)


class SessionPerLoop:
    """One :class:`LoopSession` for each event loop. Closing the loop closes its session."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._sessions: weakref.WeakKeyDictionary[Any, weakref.ref[LoopSession]] = weakref.WeakKeyDictionary()

    def current(self) -> LoopSession:
        """Return the session of the running loop. Make it at the first use."""
        loop = asyncio.get_running_loop()
        reference = self._sessions.get(loop)
        session = reference() if reference is not None else None
        if session is None:
            try:
                client = self._topology.async_client()
            except TypeError as error:
                hint = "leave the option out, or give client=redis.Redis(...)"
                raise ConfigurationError(f"redis.asyncio does not accept an option: {error}; {hint}") from error
            session = LoopSession(self._topology, client)
            self._sessions[loop] = weakref.ref(session)
            _close_with(loop, session.aclose)
        return session


def _close_with(loop: asyncio.AbstractEventLoop, aclose: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Replace ``loop.close`` with a function that calls ``aclose`` first.

    Only the loop that opened the connections can close them, and asyncio has no hook for the end of a loop. Only the
    loop refers to ``aclose``, so the connections are garbage-collected along with the loop.
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
async def _deadline(seconds: float | None) -> AsyncIterator[None]:
    """Raise TimeoutError if the ``with`` block takes longer than ``seconds``. None means no limit.

    With ``asyncio.timeout(seconds)``, a busy loop would reject an answer that arrived in time and was not read yet.
    Here the loop first reads all answers that have arrived, and then checks the deadline.
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
