"""Work in an event loop that cancellation does not lose."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

R = TypeVar("R")

_tasks: set[asyncio.Task[Any]] = set()
"""The loop itself holds tasks only weakly."""


def _started(work: Coroutine[Any, Any, R]) -> asyncio.Task[R]:
    task = asyncio.get_running_loop().create_task(work)
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    return task


async def finished(work: Coroutine[Any, Any, R]) -> R:
    """What ``work`` comes to; cancelled meanwhile, it goes on, as long as its loop does."""
    return await asyncio.shield(_started(work))


async def acquired(asking: Coroutine[Any, Any, R], give_back: Callable[[R], Coroutine[Any, Any, Any]]) -> R:
    """What ``asking`` comes to. Cancelled meanwhile, what it still brings is given back."""
    task = _started(asking)

    def return_it(task: asyncio.Task[R]) -> None:
        if not task.cancelled() and task.exception() is None:
            _started(give_back(task.result()))

    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(return_it)
        raise


async def awaited(result: Any) -> Any:
    """``result``, awaited if it is to be: an asynchronous view may answer at once, as Django's mixins do."""
    return await result if inspect.isawaitable(result) else result
