"""The calls that ask Redis, and may have to wait for a Redis that does not answer."""

from __future__ import annotations

from collections.abc import Callable

from . import limiters
from .breakers import OURS, SHARED, Service
from .measure import Call
from .stage import Server, django


def _smart(server: Server) -> Call:
    django(server)
    return limiters.smart("fixed_window", redis=True)


HANGING: dict[str, Callable[[Server], Call]] = {
    f"breaker: {name}": lambda server, it=each: it.guard(Service().call, server)  # type: ignore[misc] # bound here
    for name, each in SHARED.items()
}
HANGING |= {
    "limits": lambda server: limiters.limits("FixedWindowRateLimiter", server.url),
    "throttled-py": lambda server: limiters.throttled("gcra", server.url),
    "pyrate-limiter": lambda server: limiters.pyrate(state=True, url=server.url),
    "django-smart-ratelimit": _smart,
    "ours": lambda server: limiters.ours("sliding_window", server.url),
}
OUR_BREAKER, OUR_LIMITER = f"breaker: {OURS.name}", "ours"
