"""How long to wait before trying again.

Source of the jitters: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from math import isfinite
from typing import Literal, get_args

from .errors import ConfigurationError, not_one_of

Jitter = Literal["full", "equal", "decorrelated", "none"]


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential back-off, capped, with jitter. Times are in seconds.

    Attributes:
        base: the wait before the first retry.
        factor: by what the wait grows each time.
        max: no computed wait is longer.
        jitter: ``"full"`` waits anywhere between 0 and the computed wait: it spreads callers best.
            ``"equal"`` waits at least half of it. ``"decorrelated"`` draws between ``base`` and three times
            the wait before: it needs to be told that one. ``"none"`` makes a fleet come back in step.
    """

    base: float = 1.0
    factor: float = 2.0
    max: float = 300.0
    jitter: Jitter = "full"

    def __post_init__(self) -> None:
        numbers = (self.base, self.factor, self.max)
        if not (
            all(type(number) in (int, float) and isfinite(number) for number in numbers)
            and 0 <= self.base <= self.max
            and self.factor >= 1
        ):
            raise ConfigurationError(f"{self}: base must be from 0 to max, factor at least 1, and all finite numbers")
        if self.jitter not in get_args(Jitter):
            raise not_one_of("Backoff: jitter", self.jitter, get_args(Jitter))

    def delay(
        self,
        attempt: int,
        *,
        floor: float = 0.0,
        previous: float | None = None,
        rng: random.Random | None = None,
    ) -> float:
        """The wait before retry number ``attempt`` (0 for the first), never less than ``floor``.

        ``floor`` is what somebody who knows has said, such as ``Retry-After``: it is kept even where it is
        beyond ``max``. ``previous`` is the wait before, for ``"decorrelated"``. ``rng`` makes it repeatable.
        """
        draw = (rng or _random).uniform
        try:
            wait = min(self.max, self.base * float(self.factor) ** max(0, attempt))
        except OverflowError:
            wait = self.max if self.base else 0.0
        if self.jitter == "full":
            wait = draw(0, wait)
        elif self.jitter == "equal":
            wait = draw(wait / 2, wait)
        elif self.jitter == "decorrelated":
            wait = min(self.max, draw(self.base, max(self.base, 3 * (self.base if previous is None else previous))))
        return max(wait, floor)


_random = random.SystemRandom()  # a forked child would repeat its parent's draws


def retry_after_of(error: BaseException) -> float | None:
    """The seconds that an error asks to wait, or None.

    Read from a ``retry_after`` of its own, or from the ``Retry-After`` header of its ``response`` (requests,
    httpx) in either form: seconds or a date. None, too, where that is over, or 30 days away or more.
    """
    try:
        return _asked(error)
    except Exception:  # whatever a stranger's error or its headers raise, they hold no Retry-After
        return None


def _asked(error: BaseException) -> float | None:
    own = getattr(error, "retry_after", None)
    if isinstance(own, int | float):
        return _sane(own)
    headers = getattr(getattr(error, "response", None), "headers", None)
    if headers is None:
        headers = getattr(error, "headers", None)
    text = headers.get("Retry-After") if headers is not None else None
    if not isinstance(text, str):
        return None
    try:
        return _sane(float(text))
    except ValueError:
        when = parsedate_to_datetime(text)
    if when.tzinfo is None:  # "-0000" is UTC too
        when = when.replace(tzinfo=UTC)
    return _sane(when.timestamp() - time.time())


def _sane(seconds: float) -> float | None:
    return float(seconds) if 0 < seconds < 30 * 86400 else None
