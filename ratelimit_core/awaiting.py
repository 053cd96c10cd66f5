"""Breakers in an event loop: what may be a round trip goes to a thread, and nothing is lost by cancelling."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextvars import copy_context
from typing import Any

from .breaker_state import BreakerState
from .permit import Permit


async def ask_in_thread(state: BreakerState, ticket: str) -> Permit:
    """:meth:`BreakerState.ask`, which may ask the store. Cancelled, the permit is given back when it comes."""
    answer: Future[Permit] = Future()

    def ask() -> None:
        if answer.set_running_or_notify_cancel():
            try:
                answer.set_result(state.ask(ticket))
            except BaseException as error:
                answer.set_exception(error)

    def give_back(answer: Future[Permit]) -> None:
        if not answer.cancelled() and answer.exception() is None:
            answer.result().cancel()

    asyncio.get_running_loop().run_in_executor(None, copy_context().run, ask)
    try:
        return await asyncio.wrap_future(answer)
    except asyncio.CancelledError:
        answer.add_done_callback(give_back)
        raise


async def judged(permit: Permit, function: Callable[[], Awaitable[Any]]) -> Any:
    """What ``function`` answers when awaited, and the permit settled by it. Round trips go to a thread.

    They are shielded: a cancelled caller must still give its probe back.
    """
    try:
        result = await function()
    except GeneratorExit:  # closed, and may not await
        permit.cancel()
        raise
    except BaseException as error:
        await asyncio.shield(asyncio.to_thread(permit.judge, error))
        raise
    if permit.tells():
        await asyncio.shield(asyncio.to_thread(permit.judge_result, result))
    else:
        permit.success()
    return result
