"""The decorator ``circuit_breaker``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, overload

from ..backends.base import Backend
from .breaker import CircuitBreaker, P, R


@overload
def circuit_breaker(function: Callable[P, R], /) -> Callable[P, R]: ...
@overload
def circuit_breaker(
    name: str | None = None, *, backend: Backend | None = None, **options: Any
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...
def circuit_breaker(name: Any = None, *, backend: Backend | None = None, **options: Any) -> Any:
    """Guard a function by the breaker ``name`` (default: the function's own dotted name).

    Write ``@circuit_breaker`` or ``@circuit_breaker("name", ...)``. Give a name if you decorate a method of a
    class-based view, because Django passes its own function to the decorator instead of your method. The decorated
    function has an attribute ``circuit_breaker``, which is the breaker.

    Args:
        name: the breaker's name.
        backend: the backend to use instead of the configured one.
        options: settings, as in :class:`CircuitBreakerConfig`.

    Raises:
        ConfigurationError: an option is wrong, the breaker is already defined differently, or the function can't be
            guarded. The decorator raises the error, not the first call.
    """
    if callable(name):
        return circuit_breaker()(name)

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        full_name = name or f"{function.__module__}.{function.__qualname__}"
        return CircuitBreaker(full_name, backend=backend, **options)(function)

    return decorate
