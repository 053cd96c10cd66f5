"""The cases, in the order of the table. Each case is a module with a function ``run(pace)``."""

CASES = [
    "closed_breaker",
    "open_breaker",
    "memory_limiter",
    "redis_limiter",
    "leased_limiter",
    "django_view",
    "postgresql",
    "tasks",
    "promises",
    "growth_keys",
    "growth_limits",
    "growth_breakers",
    "growth_processes",
]

PEERS = [
    "circuitbreaker",
    "pybreaker",
    "purgatory",
    "interlock-cb",
    "limits",
    "throttled-py",
    "pyrate-limiter",
    "django-ratelimit",
    "django-smart-ratelimit",
    "redis",
    "django",
    "celery",
]
"""The distributions whose versions are stored with the figures."""
