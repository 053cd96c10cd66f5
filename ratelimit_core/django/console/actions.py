"""The actions of operators on breakers, for the admin, the dashboard and the commands."""

from __future__ import annotations

from typing import Any, NamedTuple

from ...circuit_breaker import circuit_breaker_registry


class Action(NamedTuple):
    """An action of operators. ``may_end`` says whether the action can end by itself after a time."""

    label: str
    effect: str
    may_end: bool


ACTIONS = {
    "force_open": Action("Force open", "reject every call", True),
    "force_closed": Action("Force closed", "permit every call, even if all calls fail", True),
    "disable": Action("Disable", "permit every call and count nothing", True),
    "shadow": Action("Shadow", "record and report, but reject no call", True),
    "clear_override": Action("Clear override", "end the manual override", False),
    "reset": Action("Reset", "close the breaker and forget its failures", False),
}
"""The actions by name. The name is that of the :class:`CircuitBreaker` method that carries out the action."""


def act(name: str, action: str, *, author: str, reason: str, ttl: float | None = None) -> None:
    """Carry out ``action``, one of :data:`ACTIONS`, on the breaker ``name`` in the whole fleet.

    The action ends after ``ttl`` seconds. Actions without ``may_end`` ignore ``ttl``.

    Raises:
        ResilienceError: the store is unavailable. After several failures this is a CircuitBreakerError, before that a
            BackendError.
    """
    options: dict[str, Any] = {"ttl": ttl} if ACTIONS[action].may_end else {}
    getattr(circuit_breaker_registry.refer(name), action)(author=author, reason=reason, **options)
