"""The cases: each a module with ``run(pace)``, in the order in which the table shows them."""

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
"""The distributions whose versions belong to the figures."""
