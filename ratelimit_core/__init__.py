"""Circuit breakers, rate limits and concurrency limits that a whole fleet shares.

The names below are what there is to use; each is imported when it is first touched.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backoff import Backoff, retry_after_of
    from .circuit_breaker import (
        CircuitBreaker,
        CircuitBreakerConfig,
        circuit_breaker_registry,
    )
    from .conf import configure, get_backend, register_backend
    from .django.decorators import aratelimit, rate_limit, ratelimit
    from .errors import BackendError, CircuitBreakerError, ConfigurationError, RateLimited, ResilienceError
    from .limiter import Decision, Limiter
    from .rates import Rate

__version__ = "0.1.0"

_HOMES = {
    "Backoff": "backoff",
    "retry_after_of": "backoff",
    "CircuitBreaker": "circuit_breaker",
    "CircuitBreakerConfig": "circuit_breaker",
    "circuit_breaker_registry": "circuit_breaker",
    "configure": "conf",
    "get_backend": "conf",
    "register_backend": "conf",
    "aratelimit": "django.decorators",
    "rate_limit": "django.decorators",
    "ratelimit": "django.decorators",
    "BackendError": "errors",
    "CircuitBreakerError": "errors",
    "ConfigurationError": "errors",
    "RateLimited": "errors",
    "ResilienceError": "errors",
    "Decision": "limiter",
    "Limiter": "limiter",
    "Rate": "rates",
}

__all__ = [  # the decorator `circuit_breaker` stays in its module, which has the same name
    "BackendError",
    "Backoff",
    "CircuitBreaker",
    "CircuitBreakerConfig",
    "CircuitBreakerError",
    "ConfigurationError",
    "Decision",
    "Limiter",
    "Rate",
    "RateLimited",
    "ResilienceError",
    "aratelimit",
    "circuit_breaker_registry",
    "configure",
    "get_backend",
    "rate_limit",
    "ratelimit",
    "register_backend",
    "retry_after_of",
]


if not TYPE_CHECKING:  # a type checker would take any name for one of ours

    def __getattr__(name: str) -> Any:
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f".{home}", __name__), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
