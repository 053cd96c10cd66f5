"""What breakers and limits count anyway, asked now and then, so a call pays nothing."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable
from weakref import WeakKeyDictionary

from .._util.fork import renewed_after_fork
from ..circuit_breaker.cache import BreakerState, states
from ..limiter.denials import denials
from .labels import FirstSeen, label_of, labelling

COUNTED = ("successes", "failures", "rejections", "shadow_rejections", "probes")
"""What each breaker counts, as it names it."""
_AT_A_TIME = 500
"""So many breakers are asked on the way of somebody's call, which takes half a millisecond."""


class Counts:
    """What was counted in this process and not taken yet."""

    def __init__(self) -> None:
        self._breakers, self._limits = FirstSeen(), FirstSeen()
        self._begin()
        _instances.add(self)

    def _begin(self) -> None:
        self._told: WeakKeyDictionary[BreakerState, tuple[int, ...]] = WeakKeyDictionary()
        self._told_denials = Counter(denials)
        self._round: list[BreakerState] = []
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
        """What was counted since, of all breakers or ``only`` those, by label and name. Each is taken once."""
        with self._lock:
            return self._take(states() if only is None else only)

    def take_some(self) -> Counter[tuple[str, str]]:
        """:meth:`take` of the breakers whose turn it is, where there are very many."""
        with self._lock:
            if not self._round:
                self._round = states()
            turn, self._round = self._round[:_AT_A_TIME], self._round[_AT_A_TIME:]
            return self._take(turn)

    def _take(self, only: Iterable[BreakerState]) -> Counter[tuple[str, str]]:
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
        """The hits denied since, by the limit as it is written and its algorithm."""
        with self._lock:
            now = Counter(denials)
            taken = now - self._told_denials
            self._told_denials = now
        bounded: Counter[tuple[str, str]] = Counter()
        for (limit, algorithm), number in taken.items():
            bounded[self._limits(limit), algorithm] += number
        return bounded

    def label(self, name: str) -> str:
        """The label of the breaker ``name``; ``other`` where there are too many."""
        return self._breakers(label_of(name))


_instances = renewed_after_fork(Counts._begin)  # breakers begin at 0 in a child
