"""The pace at which tasks that waited for a breaker resume, so that they do not all run at once."""

from __future__ import annotations

from ratelimit_core._util.clock import SECOND
from ratelimit_core.limiter import Limiter
from ratelimit_core.protocol.internal_keys import turns_of
from ratelimit_core.rates import Rate, parse_rates

from .options import Options

_DEFAULT_RATE = "100/s"


class ResumePace:
    """A pace at which waiting tasks get their turns, from a leaky bucket that the whole fleet shares.

    Attributes:
        limiter: the leaky bucket.
        between_turns: seconds from one turn to the next.
    """

    def __init__(self, name: str, options: Options) -> None:
        rate = min(parse_rates(_rate(options)), key=lambda each: each.spacing_us)
        self.limiter = Limiter(rate, key=turns_of(name), algorithm="leaky_bucket")
        self.between_turns = rate.spacing_us / SECOND
        self._max_wait = options.max_wait

    def turn(self, breaker: str, floor: float = 0.0) -> float:
        """Return the seconds until a task that waited for ``breaker`` may resume; at least ``floor``.

        Costs one round trip. If there is no free turn before ``max_wait``, return ``floor``.
        """
        turn = self.limiter.reserve(self._max_wait, not_before=floor, key=turns_of(breaker))
        return turn.retry_after if turn.allowed else floor


def _rate(options: Options) -> Rate | str | list[str | Rate]:
    if options.resume_rate is not None:
        return options.resume_rate
    if options.rate is None or options.rate_key is not None:  # the rate is not for all tasks together
        return _DEFAULT_RATE
    return options.rate
