"""What an operator can do to a breaker, whichever way: by the admin or by a command."""

from __future__ import annotations

from typing import Any, NamedTuple

from ...circuit_breaker import circuit_breaker_registry


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


def act(name: str, action: str, *, author: str, reason: str, ttl: float | None = None) -> None:
    """Do ``action``, one of :data:`ACTIONS`, to the breaker ``name`` in the whole fleet.

    ``ttl``: after how many seconds it ends by itself, if it can.

    Raises:
        ResilienceError: the store is unavailable: a BackendError or, after a few of them, a CircuitBreakerError.
    """
    options: dict[str, Any] = {"ttl": ttl} if ACTIONS[action].may_end else {}
    getattr(circuit_breaker_registry.refer(name), action)(author=author, reason=reason, **options)
