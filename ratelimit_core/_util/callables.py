"""What a callable is: asynchronous, or a method that Django's ``method_decorator`` decorates."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any

if sys.version_info >= (3, 12):
    from inspect import iscoroutinefunction
else:  # this one sees there what asgiref marks as a coroutine function
    from asyncio import iscoroutinefunction


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
