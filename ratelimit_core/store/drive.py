"""Drive a guard's logic against a store: see :mod:`ratelimit_core._util.steps`.

A step of a guard is a tuple: the name of a method of :class:`~ratelimit_core.store.fallback.Store`, and its arguments.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, TypeVar

from .._util.steps import Steps, arun, run

R = TypeVar("R")

__all__ = ["Steps", "adrive", "drive"]


def drive(steps: Steps[R], store: object) -> R:
    """Perform the steps one after the other by calling methods of ``store``, and return the result of ``steps``."""

    def perform(step: tuple[Any, ...]) -> Any:
        return getattr(store, step[0])(*step[1:])

    return run(steps, perform)


async def adrive(steps: Steps[R], store: object, first: tuple[Any, ...] | None = None) -> R:
    """Do the same as :func:`drive`, without blocking the event loop.

    Args:
        first: the first step, if the caller has already taken it out of ``steps``.
    """

    def perform(step: tuple[Any, ...]) -> Awaitable[Any]:
        awaitable: Awaitable[Any] = getattr(store, f"a{step[0]}")(*step[1:])
        return awaitable

    return await arun(steps, perform, first)
