"""Circuit breakers, rate limits and concurrency limits that a whole fleet shares.

The public names are those in ``__all__``. Each name is imported when a program first uses it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backoff import Backoff
    from .circuit_breaker import (
        CircuitBreaker,
        CircuitBreakerConfig,
        circuit_breaker,
        circuit_breaker_registry,
    )
    from .django.decorators import aratelimit, rate_limit, ratelimit
    from .errors import BackendError, CircuitBreakerError, ConfigurationError, RateLimitExceeded, ResilienceError
    from .limiter import Decision, Limiter
    from .rates import Rate
    from .retry_after import parse_retry_after
    from .store.configured import configure, get_backend
    from .store.factory import register_backend

__version__ = "0.1.0"

_HOMES = {
    "Backoff": "backoff",
    "parse_retry_after": "retry_after",
    "CircuitBreaker": "circuit_breaker",
    "CircuitBreakerConfig": "circuit_breaker",
    "circuit_breaker": "circuit_breaker",  # the package itself can be called as the decorator
    "circuit_breaker_registry": "circuit_breaker",
    "configure": "store.configured",
    "get_backend": "store.configured",
    "register_backend": "store.factory",
    "aratelimit": "django.decorators",
    "rate_limit": "django.decorators",
    "ratelimit": "django.decorators",
    "BackendError": "errors",
    "CircuitBreakerError": "errors",
    "ConfigurationError": "errors",
    "RateLimitExceeded": "errors",
    "ResilienceError": "errors",
    "Decision": "limiter",
    "Limiter": "limiter",
    "Rate": "rates",
}

__all__ = [
    "BackendError",
    "Backoff",
    "CircuitBreaker",
    "CircuitBreakerConfig",
    "CircuitBreakerError",
    "ConfigurationError",
    "Decision",
    "Limiter",
    "Rate",
    "RateLimitExceeded",
    "ResilienceError",
    "aratelimit",
    "circuit_breaker",
    "circuit_breaker_registry",
    "configure",
    "get_backend",
    "parse_retry_after",
    "rate_limit",
    "ratelimit",
    "register_backend",
]


if not TYPE_CHECKING:  # if a type checker saw `__getattr__`, it would accept any name

    def __getattr__(name: str) -> Any:
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = import_module(f".{home}", __name__)
        value = module if name == home else getattr(module, name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
