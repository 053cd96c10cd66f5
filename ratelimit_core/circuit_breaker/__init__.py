"""Circuit breakers: one shared state for each dependency, in all processes that share a backend."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from ..config.breaker import CircuitBreakerConfig
from ..errors import CircuitBreakerError
from .breaker import CircuitBreaker
from .decorator import circuit_breaker
from .permit import Permit
from .registry import CircuitBreakerRegistry, circuit_breaker_registry

__all__ = [
    "CircuitBreaker",
    "CircuitBreakerConfig",
    "CircuitBreakerError",
    "CircuitBreakerRegistry",
    "Permit",
    "circuit_breaker",
    "circuit_breaker_registry",
]


class _Decorator(ModuleType):
    """The type of this module, which can be called like the decorator.

    ``from ratelimit_core import circuit_breaker`` may import the module instead of the decorator.
    """

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Decorate as :func:`circuit_breaker` does."""
        return circuit_breaker(*args, **options)


sys.modules[__name__].__class__ = _Decorator
