"""Recognise asynchronous functions, and methods behind Django's ``method_decorator``."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any

if sys.version_info >= (3, 12):
    from inspect import iscoroutinefunction
else:  # before 3.12 only the function of asyncio recognises functions that asgiref marks as coroutine functions
    from asyncio import iscoroutinefunction


def is_asynchronous(function: Callable[..., Any]) -> bool:
    """Return whether ``function`` is known to return an awaitable.

    True for coroutine functions, for functions that are marked as coroutine functions, and for a method of an
    asynchronous view behind ``method_decorator``. This method, ``dispatch``, is a plain function that returns a
    coroutine.
    """
    if iscoroutinefunction(function) or iscoroutinefunction(type(function).__call__):
        return True
    method = bound_method(function)
    return method is not None and is_asynchronous_view(method.__self__)


def is_asynchronous_view(candidate: object) -> bool:
    """Return whether ``candidate`` is a class-based view of Django whose handlers are coroutine functions."""
    return getattr(type(candidate), "view_is_async", False) is True


def bound_method(function: Any) -> Any:
    """Return the method that ``method_decorator`` decorates at each call, or None."""
    while function is not None:
        if isinstance(function, functools.partial) and inspect.ismethod(function.func):
            return function.func
        function = getattr(function, "__wrapped__", None)
    return None
