"""Write logic once for callers that block and for callers that await.

The logic is a generator that does no I/O itself ("sans-I/O", as h11 calls it). It yields a step, a value that says what
to do next. :func:`run` or :func:`arun` performs the step and sends the result back in. If performing it raises, the
error is raised at the ``yield``. What the generator returns is the result of all its steps.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import Any, TypeVar

R = TypeVar("R")
Steps = Generator[Any, Any, R]
"""A generator of steps that comes to an ``R``."""


def run(steps: Steps[R], perform: Callable[[Any], Any]) -> R:
    """Perform the steps one after the other, and return what they come to."""
    try:
        step = next(steps)
        while True:
            try:
                answer = perform(step)
            except BaseException as error:
                step = steps.throw(error)
            else:
                step = steps.send(answer)
    except StopIteration as end:
        result: R = end.value
        return result


async def arun(steps: Steps[R], perform: Callable[[Any], Awaitable[Any]], first: Any = None) -> R:
    """:func:`run` without blocking the event loop.

    Args:
        first: the first step, if the caller has already taken it out of ``steps``.
    """
    try:
        step = next(steps) if first is None else first
        while True:
            try:
                answer = await perform(step)
            except BaseException as error:
                step = steps.throw(error)
            else:
                step = steps.send(answer)
    except StopIteration as end:
        result: R = end.value
        return result


Call = tuple[Any, ...]
"""A step that calls a method: the object, the name of the method, and its arguments."""


def call(step: Call) -> Any:
    """Perform ``(object, method, *arguments)`` for :func:`run`."""
    return getattr(step[0], step[1])(*step[2:])


def acall(step: Call) -> Awaitable[Any]:
    """Perform the same for :func:`arun`: by the method's asynchronous form, named with an ``a`` in front."""
    awaitable: Awaitable[Any] = getattr(step[0], f"a{step[1]}")(*step[2:])
    return awaitable
