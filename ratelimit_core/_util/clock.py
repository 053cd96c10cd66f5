"""The clocks. A clock is a function that returns a whole number of microseconds.

A store decides by its own clock. Guards use a monotonic clock, and only for durations such as the age of a verdict. The
functions of :mod:`time` are looked up at each call, so that :func:`ratelimit_core.testing.frozen_time` can replace
them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from time import monotonic_ns, time_ns

Clock = Callable[[], int]

SECOND = 1_000_000
LONGEST = 400 * 24 * 3600 * SECOND
"""The longest duration that a setting accepts, in µs: 400 days. It keeps all numbers in the policies below 2**53."""


def wall() -> int:
    """Return the microseconds since the epoch."""
    return time_ns() // 1000


def monotonic() -> int:
    """Return the microseconds since an arbitrary start. The number never decreases."""
    return monotonic_ns() // 1000


def sleep(seconds: float) -> None:
    """Block the thread for ``seconds``."""
    time.sleep(seconds)


def microseconds(seconds: float) -> int:
    """Convert seconds to microseconds. Round up, so that the result is never shorter than the configured time."""
    return -int(-seconds * SECOND // 1)
