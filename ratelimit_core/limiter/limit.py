"""One limit: a policy with its configuration, and the calls that ask the policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from .._util.clock import LONGEST, SECOND, microseconds
from .._util.ids import new_id
from ..backends.base import Backend
from ..errors import ConfigurationError
from ..policies import (
    CONCURRENCY,
    FIXED_WINDOW,
    SLIDING_WINDOW,
    SLIDING_WINDOW_COUNTER,
    TOKEN_BUCKET,
    Policy,
)
from ..policies.token_bucket import HIT
from ..protocol.call import Call, Key
from ..protocol.limit import ALLOWED, REMAINING, RESET_AFTER, WAIT
from ..rates import Rate
from .decision import Decision
from .denials import count_denial

Algorithm = Literal["sliding_window", "sliding_window_counter", "fixed_window", "token_bucket", "leaky_bucket"]

_POLICIES: dict[Algorithm, Policy] = {
    "sliding_window": SLIDING_WINDOW,
    "sliding_window_counter": SLIDING_WINDOW_COUNTER,
    "fixed_window": FIXED_WINDOW,
    "token_bucket": TOKEN_BUCKET,
    "leaky_bucket": TOKEN_BUCKET,
}
_new = tuple.__new__
"""Makes a named tuple. The constructor of the class is slower, which matters because every check makes a tuple."""
_MAX_LOG = 100_000
_MIN_TOLERANCE_US = SECOND // 4
"""How late a reservation of a bucket can be redeemed, in µs. If the spacing is longer, the spacing applies."""


class Limit:
    """One limit: a policy with its configuration. It makes the calls that ask the policy.

    Attributes:
        policy: the policy that decides.
        allowance: the maximum number of units or slots that can be in use at once.
        spacing_us, period_us: the spacing and the period of the rate, in µs; 0 for a concurrency limit.
        reservable: whether the limit takes reservations.
    """

    __slots__ = ("_config", "_events", "_qualifier", "allowance", "period_us", "policy", "reservable", "spacing_us")

    def __init__(
        self, policy: Policy, qualifier: str, allowance: int, config: tuple[int, ...], rate: Rate | None = None
    ) -> None:
        self.policy = policy
        self.spacing_us = rate.spacing_us if rate is not None else 0
        self.period_us = rate.period_us if rate is not None else 0
        self.allowance = allowance
        self.reservable = "max_wait" in policy.event
        self._config = config
        self._qualifier = qualifier
        self._events: dict[int, tuple[int, ...]] = {}  # by operation: the event of a call that costs 1

    @classmethod
    def of_rate(cls, rate: Rate, algorithm: Algorithm, burst: int | None, spacing_margin: float = 0.0) -> Limit:
        """Return the limit for ``rate`` under ``algorithm``.

        Raises:
            ConfigurationError: ``burst`` is wrong, or ``rate`` is beyond the bounds of ``algorithm``.
        """
        if burst is not None and (type(burst) is not int or burst < 1):
            raise ConfigurationError(f"burst={burst!r} should be a whole number, 1 or more")
        policy = _POLICIES[algorithm]
        qualifier = str(rate)
        period, spacing = rate.period_us, rate.spacing_us
        allowance = rate.limit
        if policy is TOKEN_BUCKET:
            allowance = burst or (1 if algorithm == "leaky_bucket" else rate.limit)
            if allowance != rate.limit:
                qualifier = f"{rate} burst {allowance}"
            config: tuple[int, ...] = (spacing, allowance, max(spacing, _MIN_TOLERANCE_US))
            if spacing * allowance > LONGEST:
                raise ConfigurationError(
                    f"{rate} with burst={allowance}: the bucket would take over 400 days to fill; use a faster rate "
                    "or a smaller burst"
                )
        elif policy is SLIDING_WINDOW:
            if rate.limit > _MAX_LOG:
                raise ConfigurationError(
                    f"{rate}: a sliding_window stores every hit, so its limit is at most {_MAX_LOG}; "
                    "use algorithm='sliding_window_counter' or 'token_bucket'"
                )
            config = (rate.limit, period, spacing + int(spacing * spacing_margin))
        elif policy is SLIDING_WINDOW_COUNTER:
            config = (rate.limit, -(-period // 4))
        else:
            config = (rate.limit, period)
        return cls(policy, qualifier, allowance, config, rate)

    @classmethod
    def of_concurrency(cls, limit: int, timeout: float) -> Limit:
        """Return the limit of ``limit`` slots, each of which is held for ``timeout`` seconds at most.

        Raises:
            ConfigurationError: ``limit`` or ``timeout`` is wrong.
        """
        if type(limit) is not int or not 1 <= limit <= _MAX_LOG:
            raise ConfigurationError(f"concurrency={limit!r} should be a whole number from 1 to {_MAX_LOG}")
        if type(timeout) not in (int, float) or not 0 < timeout <= LONGEST / SECOND:
            raise ConfigurationError(f"timeout={timeout!r} should be seconds, more than 0 and at most 400 days")
        return cls(CONCURRENCY, str(limit), limit, (limit, microseconds(timeout)))

    @classmethod
    def of_key(cls, policy: Policy, qualifier: str) -> Limit | None:
        """Return the limit whose record is stored under ``qualifier``; None if no limit has such a key.

        Use this limit only to peek, because a key does not say for how long a slot is held.
        """
        rate, _, burst = qualifier.partition(" burst ")
        try:
            if policy is CONCURRENCY:
                return cls.of_concurrency(int(qualifier), 1.0)
            algorithm = next(name for name, its in _POLICIES.items() if its is policy)
            return cls.of_rate(Rate.parse(rate), algorithm, int(burst) if burst else None)
        except (ConfigurationError, StopIteration, ValueError):
            return None

    @property
    def grace(self) -> float:
        """How late a reservation may be redeemed without delaying its holder or others, in seconds."""
        if self.policy is TOKEN_BUCKET:
            return self._config[self.policy.config.index("tolerance")] / SECOND
        return max(self.period_us / 10, SECOND / 20) / SECOND

    @property
    def allowance_returns(self) -> bool:
        """Whether room comes back at a known time. A concurrency slot comes back when its holder releases it."""
        return self.policy is not CONCURRENCY

    def count_denial(self) -> None:
        """Count a hit that this limit denied."""
        count_denial(self._qualifier, self.policy.name)

    def key(self, name: str) -> Key:
        """Return the key of the limit's record for ``name``."""
        return name, self._qualifier

    def call(self, name: str, op: int, cost: int, lease_id: str, not_before: int = 0, max_wait: int = 0) -> Call:
        """Return the call that asks for ``cost``, or for one slot if this is a concurrency limit. Times are in µs.

        Raises:
            ConfigurationError: ``cost`` is not a whole number from 1 to the limit.
        """
        plain = cost == 1 and type(cost) is int and not (not_before or max_wait)
        event = self._events.get(op) if plain else None
        if event is not None:
            return _new(Call, (self.policy, (name, self._qualifier), event, self._config, lease_id))
        if self.policy is CONCURRENCY:
            cost = 1
        elif type(cost) is not int or not 1 <= cost <= self.allowance:
            raise ConfigurationError(
                f"cost={cost!r} of {name!r} should be a whole number from 1 to the limit, {self.allowance}; for any "
                "other cost, waiting would never help"
            )
        spare = self.allowance - cost
        values = {"op": op, "cost": cost, "spare_leases": spare, "not_before": not_before, "max_wait": max_wait}
        event = tuple([values[name] for name in self.policy.event])
        if plain:
            self._events[op] = event
        return Call(self.policy, (name, self._qualifier), event, self._config, lease_id)

    def fast_hit(self, backend: Backend) -> Callable[[str], Decision] | None:
        """Return a function that hits only this limit, at a cost of 1. Return None if ``backend`` has no fast path."""
        ask = backend.hit(self.call("", HIT, 1, ""))
        if ask is None:
            return None
        size, new, lease_id_of, count = self.allowance, tuple.__new__, new_id, self.count_denial

        def hit(name: str) -> Decision:
            lease_id = lease_id_of()
            verdict = ask(name, lease_id)
            allowed = verdict[ALLOWED] == 1
            if not allowed:
                count()
            reset, retry = verdict[RESET_AFTER] / SECOND, verdict[WAIT] / SECOND
            return new(
                Decision, (allowed, size, verdict[REMAINING], reset, retry, lease_id, 0, 0, 1, False, allowed, False)
            )

        return hit


def reservation_holders(limits: Sequence[Limit], giver: int) -> list[int]:
    """Return the indices of the limits that hold a reservation if ``giver`` is the limit with the longest wait."""
    if not 0 <= giver < len(limits) or not limits[giver].reservable:
        return []
    if limits[giver].policy is not SLIDING_WINDOW:
        return [giver]
    return [i for i, limit in enumerate(limits) if limit.policy is SLIDING_WINDOW]
