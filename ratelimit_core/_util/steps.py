"""Write logic once for callers that block and for callers that await.

The logic is a generator that does no I/O itself ("sans-I/O", as h11 calls it). The generator yields a step, a value
that says what to do next. :func:`run` or :func:`arun` performs the step and sends the result into the generator. If the
step raises an error, the error is raised at the ``yield``. Both functions return what the generator returns.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import Any, TypeVar

R = TypeVar("R")
Steps = Generator[Any, Any, R]
"""A generator that yields steps and returns an ``R``."""


def run(steps: Steps[R], perform: Callable[[Any], Any]) -> R:
    """Call ``perform`` with each step, and return what the generator returns."""
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
    """Do the same as :func:`run`, without blocking the event loop.

    Args:
        steps: the generator.
        perform: an asynchronous function that performs one step.
        first: the first step, if the caller has already taken the first step out of ``steps``.
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
    """Call the method that ``step`` names, for :func:`run`."""
    return getattr(step[0], step[1])(*step[2:])


def acall(step: Call) -> Awaitable[Any]:
    """Call the asynchronous form of the method, whose name begins with an ``a``, for :func:`arun`."""
    awaitable: Awaitable[Any] = getattr(step[0], f"a{step[1]}")(*step[2:])
    return awaitable
