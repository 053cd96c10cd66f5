"""Read the counts that breakers and limits keep even without metrics, so that metrics add no cost to a call."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable
from weakref import WeakKeyDictionary

from .._util.fork import renewed_after_fork
from ..circuit_breaker.cache import BreakerCache, caches
from ..limiter.denials import denials
from .labels import FirstSeen, label_of, labelling

COUNTED = ("successes", "failures", "rejections", "shadow_rejections", "probes")
"""The attributes of a :class:`BreakerCache` that are counters."""
_AT_A_TIME = 500
"""The maximum number of breakers that :meth:`Counts.take_some` reads, which takes half a millisecond."""


class Counts:
    """The counts of this process that an exporter has not taken yet."""

    def __init__(self) -> None:
        self._breakers, self._limits = FirstSeen(), FirstSeen()
        self._begin()
        _instances.add(self)

    def _begin(self) -> None:
        self._told: WeakKeyDictionary[BreakerCache, tuple[int, ...]] = WeakKeyDictionary()
        self._told_denials = Counter(denials)
        self._round: list[BreakerCache] = []
        self._lock = threading.Lock()
        self._next = 0.0

    def due(self) -> bool:
        """Return whether counts are due. Returns True at most once a second."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + 1.0
        return True

    def take(self, only: Iterable[BreakerCache] | None = None) -> Counter[tuple[str, str]]:
        """Return the counts since the last call, by label and counter, of all breakers or of ``only`` these."""
        with self._lock:
            return self._take(caches() if only is None else only)

    def take_some(self) -> Counter[tuple[str, str]]:
        """Do as :meth:`take` does for the next :data:`_AT_A_TIME` breakers, because all breakers may be too many."""
        with self._lock:
            if not self._round:
                self._round = caches()
            turn, self._round = self._round[:_AT_A_TIME], self._round[_AT_A_TIME:]
            return self._take(turn)

    def _take(self, only: Iterable[BreakerCache]) -> Counter[tuple[str, str]]:
        taken: Counter[tuple[str, str]] = Counter()
        label_of = labelling()
        for state in only:
            now = tuple(getattr(state, what) for what in COUNTED)
            before = self._told.get(state, (0,) * len(COUNTED))
            if now == before:
                continue
            self._told[state] = now
            label = self._breakers(label_of(state.config.name))
            for what, more, less in zip(COUNTED, now, before, strict=True):
                if more > less:
                    taken[label, what] += more - less
        return taken

    def take_denials(self) -> Counter[tuple[str, str]]:
        """Return the number of hits that were denied since the last call, by limit and algorithm."""
        with self._lock:
            now = Counter(denials)
            taken = now - self._told_denials
            self._told_denials = now
        bounded: Counter[tuple[str, str]] = Counter()
        for (limit, algorithm), number in taken.items():
            bounded[self._limits(limit), algorithm] += number
        return bounded

    def label(self, name: str) -> str:
        """Return the label of the breaker ``name``, or ``other`` if there are too many labels."""
        return self._breakers(label_of(name))


_instances = renewed_after_fork(Counts._begin)  # in a forked child, breakers count from 0
