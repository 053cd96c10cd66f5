"""What an operator can do to a breaker, whichever way: by the admin or by a command."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..._util.clock import monotonic
from ...circuit_breaker import CircuitBreaker, circuit_breaker_registry
from ...circuit_breaker.cache import BreakerState
from ...store import configured


class Action(NamedTuple):
    """What can be done: its label, what it does, and whether it can be told to end by itself."""

    label: str
    effect: str
    may_end: bool


ACTIONS = {
    "force_open": Action("Force open", "refuse every call", True),
    "force_closed": Action("Force closed", "let every call through, whatever fails", True),
    "disable": Action("Disable", "let every call through and count nothing", True),
    "shadow": Action("Shadow", "record and report, but refuse nothing", True),
    "clear_override": Action("Clear override", "end what was forced, and go on as before", False),
    "reset": Action("Reset", "close it and forget its failures", False),
}
"""By the name of the method of :class:`CircuitBreaker` that does it."""


def breaker_named(name: str) -> CircuitBreaker:
    """The breaker ``name`` of the configured backend.

    If this process has not defined it, that stays so: a module that is imported later still may.
    """
    known = circuit_breaker_registry.get(name)
    if known is None:
        known = CircuitBreaker(name)
        known._state = BreakerState(known._configured(), configured.get_store, monotonic, defined=False)
    return known


def act(name: str, action: str, *, author: str, reason: str, ttl: float | None = None) -> None:
    """Do ``action``, one of :data:`ACTIONS`, to the breaker ``name`` in the whole fleet.

    ``ttl``: after how many seconds it ends by itself, if it can.

    Raises:
        ResilienceError: the store is away: a BackendError or, after a few of them, a CircuitBreakerError.
    """
    options: dict[str, Any] = {"ttl": ttl} if ACTIONS[action].may_end else {}
    getattr(breaker_named(name), action)(author=author, reason=reason, **options)
