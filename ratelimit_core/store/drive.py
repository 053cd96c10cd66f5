"""One piece of logic for both worlds: what asks the store is a generator, and who drives it may wait or await.

A step is what is to be done by the :class:`Store`, as the name of a method and its arguments. Its answer, or the
:class:`BackendError` that came instead, is sent back in.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, TypeVar

from ..errors import BackendError
from .fallback import Store

R = TypeVar("R")
Step = tuple[Any, ...]
Steps = Generator[Step, Any, R]


def run(steps: Steps[R], store: Store) -> R:
    """Take the steps, one after the other; what they come to."""
    try:
        step = next(steps)
        while True:
            try:
                answer = getattr(store, step[0])(*step[1:])
            except BackendError as error:
                step = steps.throw(error)
            else:
                step = steps.send(answer)
    except StopIteration as end:
        result: R = end.value
        return result


async def arun(steps: Steps[R], store: Store, step: Step | None = None) -> R:
    """:func:`run` without blocking the event loop; ``step`` is the first one, if it was taken out already."""
    try:
        step = next(steps) if step is None else step
        while True:
            try:
                answer = await getattr(store, f"a{step[0]}")(*step[1:])
            except BackendError as error:
                step = steps.throw(error)
            else:
                step = steps.send(answer)
    except StopIteration as end:
        result: R = end.value
        return result
