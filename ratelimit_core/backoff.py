"""Compute the wait before the next attempt: exponential growth, a cap and jitter."""

from __future__ import annotations

import random
from dataclasses import dataclass
from math import isfinite
from typing import Literal, get_args

from ._util.suggest import not_one_of
from .errors import ConfigurationError

Jitter = Literal["full", "equal", "none"]


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff with a cap and jitter. Times are in seconds.

    Attributes:
        base: the wait before the first retry.
        factor: the wait grows by this factor with each retry.
        max: the maximum of the computed wait.
        jitter: how the computed wait is randomised. ``"full"`` draws from 0 to 100 % of the wait, which spreads callers
            best. ``"equal"`` draws from 50 to 100 %. ``"none"`` adds no jitter, so all callers retry together.
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
            raise ConfigurationError(
                f"{self}: base, factor and max should be finite numbers, with 0 <= base <= max and factor >= 1"
            )
        if self.jitter not in get_args(Jitter):
            raise not_one_of("Backoff: jitter", self.jitter, get_args(Jitter))

    def delay(self, attempt: int, *, floor: float = 0.0, rng: random.Random | None = None) -> float:
        """Return the seconds to wait before retry number ``attempt`` (0 for the first), never less than ``floor``.

        ``floor`` is a wait in seconds that the server asked for, as in ``Retry-After``, and may be longer than ``max``.
        A seeded ``rng`` makes the result repeatable.
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
        return max(wait, floor)


_random = random.SystemRandom()  # with random.Random(), a forked child would repeat the draws of its parent
