"""Call the functions that users pass as options: with the arguments that they take, also from an event loop."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.core.exceptions import SynchronousOnlyOperation

from ...errors import ConfigurationError

R = TypeVar("R")


def required_arguments(function: Callable[..., Any], option: str, most: int) -> int:
    """Return the number of arguments that ``function`` requires, from 1 to ``most``.

    Raises:
        ConfigurationError: the function takes no argument, requires more than ``most`` or arguments by name, or is a
            coroutine function.
    """
    if iscoroutinefunction(function):
        raise ConfigurationError(
            f"{option}={function!r} should be a plain function, also for an asynchronous view; if the function uses "
            "the database, it is called in a thread"
        )
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # a builtin without a signature
        return 1
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p for p in positional if p.default is p.empty]
    named = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    takes_any = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    if named or len(required) > most or not (positional or takes_any):
        raise ConfigurationError(
            f"{option}={function!r} should take the request{' (or two arguments)' if most > 1 else ''}, "
            f"not {inspect.signature(function)}"
        )
    return max(1, len(required))


def with_two(function: Callable[..., R], option: str) -> Callable[[Any, Any], R]:
    """Return ``function``, which takes ``(request)`` or two arguments, as a function of two arguments."""
    if required_arguments(function, option, 2) == 2:
        return function
    return lambda request, other: function(request)


async def in_loop(function: Callable[..., R], *args: Any) -> R:
    """Call a plain function from an event loop. If the function uses the database, call it again in Django's thread."""
    try:
        return function(*args)
    except SynchronousOnlyOperation:
        return await sync_to_async(function)(*args)
