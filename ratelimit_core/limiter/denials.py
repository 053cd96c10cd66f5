"""The number of denials in this process, and the denials that still hold."""

from __future__ import annotations

from collections import Counter

from .._util.clock import SECOND, Clock, microseconds
from .decision import Decision

denials: Counter[tuple[str, str]] = Counter()
"""The number of denied hits in this process. A key is the limit as it is written, and the name of its policy."""
_MAX_COUNTED_LIMITS = 1000
"""The maximum number of limits whose denials are counted, because a program may create limits without end."""
_MAX_KNOWN = 1024


def count_denial(limit: str, policy: str) -> None:
    """Count a denied hit."""
    which = limit, policy
    if which in denials or len(denials) < _MAX_COUNTED_LIMITS:
        denials[which] += 1


class KnownDenials:
    """The denials of one limiter that still hold. A denial holds for its ``retry_after``, but at most for 1 s."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known: dict[tuple[str, int], tuple[int, Decision]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def remember(self, key: str, decision: Decision) -> None:
        """Remember that a hit of ``key`` was denied."""
        if len(self._known) >= _MAX_KNOWN:
            self._known.clear()
        self._known[key, decision.cost] = self._clock() + _lifetime(decision), decision

    def get(self, key: str, cost: int) -> Decision | None:
        """Return the known denial of a hit of ``cost``, with its times as of now, or None."""
        if not self._known:
            return None
        until, decision = self._known.get((key, cost), (0, None))
        left = until - self._clock()
        if decision is None or left <= 0:
            return None
        passed = (_lifetime(decision) - left) / SECOND
        return decision._replace(
            retry_after=max(0.0, decision.retry_after - passed), reset_after=max(0.0, decision.reset_after - passed)
        )

    def forget(self, key: str, cost: int) -> None:
        """Forget one denial, because units were given back."""
        self._known.pop((key, cost), None)

    def clear(self) -> None:
        """Forget all denials."""
        self._known.clear()


def _lifetime(denial: Decision) -> int:
    return min(SECOND, microseconds(denial.retry_after))
