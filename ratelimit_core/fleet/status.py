"""The state of the whole fleet: breakers, limits and the tasks that wait."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from ..circuit_breaker import circuit_breaker_registry, history
from ..errors import ResilienceError
from ..store import configured
from .describe import _are, _breakers, urgency
from .timeline import timeline
from .usage import LimitInUse, overview

_WITH_HISTORY = 50
"""Of so many breakers, those that changed last, the history is read: a round trip each."""


class Fleet(NamedTuple):
    """What the configured store says of the whole fleet.

    Attributes:
        breakers: by name, as ``circuit_breaker_registry.get_fleet_status()`` says.
        limits, waiting: see :class:`Overview`.
        histories: by name, newest first, of the breakers that changed last.
        away: why the store can't be asked; then nothing is known.
    """

    breakers: dict[str, dict[str, Any]]
    limits: list[LimitInUse]
    waiting: dict[str, int]
    histories: dict[str, list[dict[str, Any]]]
    away: str = ""

    def worst_first(self) -> list[str]:
        """The names of all breakers: the open ones first, and among equals those of which somebody has said so."""
        return sorted(self.breakers, key=lambda name: (urgency(self.breakers[name]), name))

    def since(self, name: str) -> float | None:
        """Since when callers have felt a breaker as they do now. Seconds since the epoch; None if nobody knows."""
        spans = timeline(self.histories.get(name, ()), 0.0, time.time())
        return spans[-1].began or self.breakers[name]["changed_at"]

    def headline(self) -> str:
        """All in one sentence."""
        if self.away:
            return "The shared store is away"
        states = [status["state"] for status in self.breakers.values()]
        total, opened, probing = len(states), states.count("open"), states.count("half_open")
        if opened:
            return f"{opened} of {total} {_breakers(total)} {_are(opened)} open"
        if probing:
            return f"{probing} {_breakers(probing)} {_are(probing)} probing"
        if total == 1:
            return "The one breaker is closed"
        return f"All {total} breakers are closed" if total else "No breaker is in use"


def look() -> Fleet:
    """The whole fleet, as the configured store knows it. A few round trips, and one for each history."""
    try:
        breakers = circuit_breaker_registry.get_fleet_status()
        backend = configured.get_store().backend
        limits, waiting = overview(backend, breakers)
        changed = sorted(breakers, key=lambda name: breakers[name]["changed_at"] or 0, reverse=True)
        eventful = [name for name in changed if breakers[name]["mode"] != "automatic"] + changed
        recent = list(dict.fromkeys(eventful))[:_WITH_HISTORY]
        return Fleet(breakers, limits, waiting, {name: history.read(backend, name) for name in recent})
    except ResilienceError as error:
        return Fleet({}, [], {}, {}, str(error))
