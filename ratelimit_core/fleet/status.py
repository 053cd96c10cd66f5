"""The state of the whole fleet: breakers, limits and waiting tasks."""

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
"""The maximum number of breakers whose history is read, because each history costs a round trip."""


class Fleet(NamedTuple):
    """The state of the whole fleet, read from the configured store.

    Attributes:
        breakers: the status of each breaker by name, from ``circuit_breaker_registry.get_fleet_status()``.
        limits, waiting: see :class:`Overview`.
        histories: the histories by the breaker's name, with the newest entry first. Only breakers with an override and
            the breakers that changed last have a history here.
        unavailable: why the store is unavailable, so that all other fields are empty; ``""`` if the store is available.
    """

    breakers: dict[str, dict[str, Any]]
    limits: list[LimitInUse]
    waiting: dict[str, int]
    histories: dict[str, list[dict[str, Any]]]
    unavailable: str = ""

    def worst_first(self) -> list[str]:
        """Return the names of all breakers in the order of :func:`urgency`, and among equals by name."""
        return sorted(self.breakers, key=lambda name: (urgency(self.breakers[name]), name))

    def since(self, name: str) -> float | None:
        """Return the time at which the present state of the breaker began, as callers see the state.

        In seconds since the epoch; None if the time is not known.
        """
        spans = timeline(self.histories.get(name, ()), 0.0, time.time())
        return spans[-1].began or self.breakers[name]["changed_at"]

    def headline(self) -> str:
        """Return a summary of the state in one sentence."""
        if self.unavailable:
            return "The shared store is unavailable"
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
    """Read the state of the whole fleet from the configured store. Do not raise if the store is unavailable.

    Costs the round trips of :func:`overview` and ``get_fleet_status()``, and one for each history.
    """
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
