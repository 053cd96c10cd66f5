"""The header in which a waiting task carries its wait state.

A client may have written it: invalid values are ignored.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ratelimit_core.limiter import Decision

HEADER = "resilience"
"""The message header in which a waiting task carries what it needs to know of its wait."""
SOON = 0.05
"""Seconds by which a wait may end early: deferring the task again would cost more."""
SLOT = ":slot"
"""How the tickets of reserved slots end, and those of nothing else.

So a header that somebody has forged can name no hit that was counted, which would then count no more, and no place.
"""


@dataclass(frozen=True, slots=True)
class Waiting:
    """What a waiting task carries.

    Attributes:
        deferrals: how often it was put off.
        waited: how many seconds it was put off for, all times together.
        slot: its reserved slot of a limit, as (which limit, ticket, cost).
        until: when it may run, where that is later than the broker can hold a message; 0 if it may run now.
    """

    deferrals: int = 0
    waited: float = 0.0
    slot: tuple[int, str, int] | None = None
    until: float = 0.0

    @classmethod
    def of(cls, headers: Mapping[str, Any] | None) -> Waiting:
        """Read the header. What others may have written into it is not trusted: nonsense counts as nothing."""
        header = headers.get(HEADER) if isinstance(headers, Mapping) else None
        if not isinstance(header, Mapping):
            return cls()
        deferrals = header.get("deferrals")
        return cls(
            deferrals=deferrals if isinstance(deferrals, int) and 0 <= deferrals < 1_000_000_000 else 0,
            waited=min(_number(header.get("waited")), 1e9),
            slot=_slot(header.get("slot")),
            until=min(_number(header.get("until")), time.time() + _LONGEST),
        )

    def header(self) -> dict[str, Any]:
        """The header's value."""
        return {
            "deferrals": self.deferrals,
            "waited": round(self.waited, 3),
            "slot": list(self.slot) if self.slot else None,
            "until": self.until,
        }

    def left(self, max_wait: float, max_deferrals: int | None) -> float:
        """For how many seconds it may be put off now; negative if it may not be put off again."""
        if max_deferrals is not None and self.deferrals >= max_deferrals:
            return -1.0
        return max_wait - self.waited

    @property
    def too_early(self) -> float:
        """How many seconds it has to wait still, whatever anybody says; 0 if it may run."""
        early = self.until - time.time()
        return early if early > SOON else 0.0

    def decision(self) -> Decision | None:
        """The reserved slot, as the limiter that gave it knows it."""
        if self.slot is None:
            return None
        which, ticket, cost = self.slot
        return Decision(True, 0, 0, 0.0, 0.0, ticket=ticket, denied_by=which, cost=cost)


_LONGEST = 30 * 86400.0


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and 0 < value < 1e11 else 0.0


def _slot(value: object) -> tuple[int, str, int] | None:
    match value:
        case [int() as which, str() as ticket, int() as cost] if 0 <= which < 100 and cost > 0:
            known = len(ticket) <= 200 and ticket.isascii() and ticket.endswith(SLOT)
            return (which, ticket, cost) if known else None
    return None
