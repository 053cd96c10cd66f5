"""Where time is read. A clock is a function that returns whole microseconds.

Stores decide by a clock of their own. Guards use a monotonic clock, and only for durations, such as the age of a
verdict. The functions of :mod:`time` are looked up at each call, so that :func:`ratelimit_core.testing.frozen_time`
can replace them.
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
