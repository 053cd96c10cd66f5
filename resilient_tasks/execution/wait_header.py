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
"""The message header in which a waiting task carries the state of its wait."""
SOON = 0.05
"""Seconds by which a wait may end early: deferring the task again would cost more."""
SLOT = ":slot"
"""The end of the ids of reservations. No other id ends like this.

So a forged header can't name a counted hit or a lease, which the limiter would then give up.
"""


@dataclass(frozen=True, slots=True)
class Waiting:
    """The state of a wait, as a waiting task carries it.

    Attributes:
        deferrals: how often it was put off.
        waited: how many seconds it was put off for, all times together.
        slot: its reserved slot of a limit, as (which limit, lease id, cost).
        until: when it may run, where that is later than the broker can hold a message; 0 if it may run now.
    """

    deferrals: int = 0
    waited: float = 0.0
    slot: tuple[int, str, int] | None = None
    until: float = 0.0

    @classmethod
    def of(cls, headers: Mapping[str, Any] | None) -> Waiting:
        """Read the header. A client may have written it, so invalid values are ignored."""
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
        """Return the value of the header."""
        return {
            "deferrals": self.deferrals,
            "waited": round(self.waited, 3),
            "slot": list(self.slot) if self.slot else None,
            "until": self.until,
        }

    def left(self, max_wait: float, max_deferrals: int | None) -> float:
        """Return for how many seconds it may be deferred now; negative if it may not be deferred again."""
        if max_deferrals is not None and self.deferrals >= max_deferrals:
            return -1.0
        return max_wait - self.waited

    @property
    def too_early(self) -> float:
        """The seconds that it still has to wait, whatever a limit or a breaker says; 0 if it may run."""
        early = self.until - time.time()
        return early if early > SOON else 0.0

    def decision(self) -> Decision | None:
        """Return the reservation in the form of the limiter that gave it, or None."""
        if self.slot is None:
            return None
        which, lease_id, cost = self.slot
        return Decision(True, 0, 0, 0.0, 0.0, lease_id=lease_id, denied_by=which, cost=cost)


_LONGEST = 30 * 86400.0


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and 0 < value < 1e11 else 0.0


def _slot(value: object) -> tuple[int, str, int] | None:
    match value:
        case [int() as which, str() as lease_id, int() as cost] if 0 <= which < 100 and cost > 0:
            known = len(lease_id) <= 200 and lease_id.isascii() and lease_id.endswith(SLOT)
            return (which, lease_id, cost) if known else None
    return None
