"""What a backend asks a Redis server, in an event loop."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

import redis

from ...errors import BackendError, ConfigurationError
from .servers import Servers
from .session import _OTHERS, _UNREACHED, ERRORS, Script, _outdated, unavailable


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
