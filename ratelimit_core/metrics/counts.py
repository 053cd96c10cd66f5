"""What this process counts: breakers count anyway, and are asked now and then, so a call pays nothing."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterable
from weakref import WeakKeyDictionary

from ..breaker_state import BreakerState, states
from .labels import MOST, label_of

OUTCOMES = ("successes", "failures", "refusals", "shadow_refusals", "probes")


class Counts:
    """What the breakers of this process counted that was not taken yet."""

    def __init__(self) -> None:
        self._told: WeakKeyDictionary[BreakerState, tuple[int, ...]] = WeakKeyDictionary()
        self._labels: set[str] = set()
        self._lock = threading.Lock()
        self._next = 0.0

    def due(self) -> bool:
        """Whether a second has passed since it was last so."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + 1.0
        return True

    def take(self, only: Iterable[BreakerState] | None = None) -> Counter[tuple[str, str]]:
        """What was counted since, of all breakers or ``only`` those, by label and outcome. Each count is taken once."""
        taken: Counter[tuple[str, str]] = Counter()
        with self._lock:
            for state in states() if only is None else only:
                now = tuple(getattr(state, outcome) for outcome in OUTCOMES)
                before = self._told.get(state, (0,) * len(OUTCOMES))
                if now == before:
                    continue
                self._told[state] = now
                label = self.label(state.config.name)
                for outcome, more, less in zip(OUTCOMES, now, before, strict=True):
                    if more > less:
                        taken[label, outcome] += more - less
        return taken

    def label(self, name: str) -> str:
        """The label of the breaker ``name``; ``other`` where there are too many."""
        label = label_of(name)
        if label in self._labels or len(self._labels) < MOST:
            self._labels.add(label)
            return label
        return "other"

    def _after_fork(self) -> None:
        """The breakers begin at 0 in a child, and the lock may be another thread's."""
        self._lock = threading.Lock()
        self._told = WeakKeyDictionary()
        self._next = 0.0


counts = Counts()
os.register_at_fork(after_in_child=counts._after_fork)
