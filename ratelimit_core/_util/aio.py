"""Run asynchronous work to its end, even if the caller is cancelled."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

R = TypeVar("R")

_tasks: set[asyncio.Task[Any]] = set()
"""References that keep the tasks alive, because an event loop holds only weak references to its tasks."""


def _started(work: Coroutine[Any, Any, R]) -> asyncio.Task[R]:
    task = asyncio.get_running_loop().create_task(work)
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    return task


async def finished(work: Coroutine[Any, Any, R]) -> R:
    """Return the result of ``work``. If the caller is cancelled, ``work`` continues as long as the event loop runs."""
    return await asyncio.shield(_started(work))


async def acquired(asking: Coroutine[Any, Any, R], give_back: Callable[[R], Coroutine[Any, Any, Any]]) -> R:
    """Return the result of ``asking``. If the caller is cancelled first, pass the later result to ``give_back``."""
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
    """Await ``result`` if it is awaitable, and return its value.

    An asynchronous view may return a plain response, as Django's mixins do.
    """
    return await result if inspect.isawaitable(result) else result
