"""Breakers and limiters in an event loop: nothing blocks it, and nothing is lost by cancelling."""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from .permit import Permit, probes
from .steps import Steps, arun

if sys.version_info >= (3, 12):
    from inspect import iscoroutinefunction
else:  # this one sees there what asgiref marks as a coroutine function
    from asyncio import iscoroutinefunction

R = TypeVar("R")

_tasks: set[asyncio.Task[Any]] = set()
"""The loop itself holds tasks only weakly."""


def is_asynchronous(function: Callable[..., Any]) -> bool:
    """Whether what ``function`` returns is to be awaited, as far as can be told before it is called.

    So it is of coroutine functions, of what is marked as one, and of a method of an asynchronous view that
    ``method_decorator`` decorates: ``dispatch`` is a plain function that returns a coroutine.
    """
    if iscoroutinefunction(function) or iscoroutinefunction(type(function).__call__):
        return True
    method = bound_method(function)
    return method is not None and is_asynchronous_view(method.__self__)


def is_asynchronous_view(candidate: object) -> bool:
    """Whether it is a class-based view of Django's whose handlers are coroutine functions."""
    return getattr(type(candidate), "view_is_async", False) is True


def bound_method(function: Any) -> Any:
    """The method that ``method_decorator`` decorates anew for each call, or None."""
    while function is not None:
        if isinstance(function, functools.partial) and inspect.ismethod(function.func):
            return function.func
        function = getattr(function, "__wrapped__", None)
    return None


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


async def judged(permit: Permit, function: Callable[[], Any]) -> Any:
    """What ``function`` answers when awaited, and the permit settled by it, whoever is cancelled."""
    try:
        result = await (_as_probe(permit, function) if permit.probe else awaited(function()))
    except GeneratorExit:  # closed, and may not await
        permit.cancel()
        raise
    except BaseException as error:
        await settled(permit, permit.judging(error))
        raise
    await settled(permit, permit.judging_result(result))
    return result


async def _as_probe(permit: Permit, function: Callable[[], Any]) -> Any:
    """What a probe calls through its own breaker again is still that probe."""
    before = probes.set((*probes.get(), permit))
    try:
        return await awaited(function())
    finally:
        with suppress(ValueError):  # closed in another context than it began in
            probes.reset(before)


async def settled(permit: Permit, steps: Steps[Any]) -> None:
    """Take the steps, if there are any: a task costs more than all else on the healthy path."""
    step = next(steps, None)
    if step is not None:
        await finished(arun(steps, permit.store, step))
