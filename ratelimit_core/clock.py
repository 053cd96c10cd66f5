"""Where time is read. A clock is a function that returns whole microseconds.

Stores decide by a clock of their own; guards use a monotonic one, and only for spans: how old a verdict is. What is
imported from :mod:`time` is looked up at each call: that is where :func:`ratelimit_core.testing.frozen_time` steps in.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from time import monotonic_ns, time_ns

Clock = Callable[[], int]

SECOND = 1_000_000
LONGEST = 400 * 24 * 3600 * SECOND
"""The longest span that may be configured: 400 days. It keeps all arithmetic of the policies below 2**53."""


def wall() -> int:
    """Microseconds since the epoch."""
    return time_ns() // 1000


def monotonic() -> int:
    """Microseconds since some start; never goes backwards."""
    return monotonic_ns() // 1000


def sleep(seconds: float) -> None:
    """Wait in place."""
    time.sleep(seconds)


def microseconds(seconds: float) -> int:
    """Seconds as microseconds, rounded up: against the caller."""
    return -int(-seconds * SECOND // 1)


class ManualClock:
    """A clock for tests: it stands still until it is told to advance (or to go back)."""

    def __init__(self, start: float = 1_790_000_000.0) -> None:
        self.now = microseconds(start)

    def __call__(self) -> int:
        """The time that it was told."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Move by ``seconds``, which may be negative."""
        self.now += round(seconds * SECOND)
