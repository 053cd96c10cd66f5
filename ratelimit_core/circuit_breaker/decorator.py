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

    With and without parentheses. On a method of a class-based view, give a name: Django decorates another function
    there than the one you wrote. ``options`` are those of :class:`CircuitBreakerConfig`. The decorated function has
    the breaker as its attribute ``circuit_breaker``.

    Raises:
        ConfigurationError: where the decorator runs, if an option is unknown or wrong.
    """
    if callable(name):
        return circuit_breaker()(name)

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        full_name = name or f"{function.__module__}.{function.__qualname__}"
        return CircuitBreaker(full_name, backend=backend, **options)(function)

    return decorate
