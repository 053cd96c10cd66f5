"""One limit: a policy with its configuration, and the calls that ask it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from .._util.clock import LONGEST, SECOND, microseconds
from .._util.ids import new_ticket
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
from ..protocol.call import Call
from ..rates import Rate
from .decision import Decision
from .denials import _MOST_DENYING, denials

Algorithm = Literal["sliding_window", "sliding_window_counter", "fixed_window", "token_bucket", "leaky_bucket"]

_POLICIES: dict[Algorithm, Policy] = {
    "sliding_window": SLIDING_WINDOW,
    "sliding_window_counter": SLIDING_WINDOW_COUNTER,
    "fixed_window": FIXED_WINDOW,
    "token_bucket": TOKEN_BUCKET,
    "leaky_bucket": TOKEN_BUCKET,
}
_new = tuple.__new__
"""Makes a named tuple without the function that names its fields: it is on the path of every check."""
_MAX_LOG = 100_000
_PUNCTUAL = SECOND // 4
"""A bucket's ticket is good for one spacing after its slot, or for this long if that is longer."""


class Limit:
    """One limit: a policy, its configuration, and how it is asked."""

    __slots__ = ("_config", "_of_one", "_qualifier", "allowance", "period_us", "policy", "reservable", "spacing_us")

    def __init__(
        self, policy: Policy, qualifier: str, allowance: int, config: tuple[int, ...], rate: Rate | None = None
    ) -> None:
        self.policy = policy
        self.spacing_us = rate.spacing_us if rate is not None else 0
        self.period_us = rate.period_us if rate is not None else 0
        self.allowance = allowance
        self._config = config
        self._qualifier = qualifier
        self.reservable = "max_wait" in policy.event
        """Whether it can give a slot in the future."""
        self._of_one: dict[int, tuple[int, ...]] = {}  # by operation: what is asked most often, put together once

    @classmethod
    def of_rate(cls, rate: Rate, algorithm: Algorithm, burst: int | None, spacing_margin: float = 0.0) -> Limit:
        """The limit that ``rate`` means under ``algorithm``.

        Raises:
            ConfigurationError: a wrong burst, or a limit that the algorithm can't hold.
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
            config: tuple[int, ...] = (spacing, allowance, max(spacing, _PUNCTUAL))
            if spacing * allowance > LONGEST:
                raise ConfigurationError(f"{rate} with burst={allowance}: it takes over 400 days to fill")
        elif policy is SLIDING_WINDOW:
            if rate.limit > _MAX_LOG:
                raise ConfigurationError(
                    f"{rate}: a sliding_window keeps every hit, so its limit is at most {_MAX_LOG}; "
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
        """At most ``limit`` at a time, each for ``timeout`` seconds at most.

        Raises:
            ConfigurationError: either is nonsense.
        """
        if type(limit) is not int or not 1 <= limit <= _MAX_LOG:
            raise ConfigurationError(f"concurrency={limit!r} should be a whole number from 1 to {_MAX_LOG}")
        if type(timeout) not in (int, float) or not 0 < timeout <= LONGEST / SECOND:
            raise ConfigurationError(f"timeout={timeout!r} should be seconds, more than 0 and at most 400 days")
        return cls(CONCURRENCY, str(limit), limit, (limit, microseconds(timeout)))

    @classmethod
    def of_key(cls, policy: Policy, qualifier: str) -> Limit | None:
        """A limit of the record that is stored under ``qualifier``, good for looking at it; None if there is none such.

        What the key does not say, as how long a place is held, nobody needs who only looks.
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
        """Seconds by which who holds a slot may be late for it, and neither lose it nor make others lose theirs."""
        if self.policy is TOKEN_BUCKET:
            return self._config[self.policy.config.index("tolerance")] / SECOND
        return max(self.period_us / 10, SECOND / 20) / SECOND

    @property
    def allowance_returns(self) -> bool:
        """Whether time alone makes room again; else it is for others to give theirs back."""
        return self.policy is not CONCURRENCY

    def denied(self) -> None:
        """Count a hit that it denied."""
        which = self._qualifier, self.policy.name
        if which in denials or len(denials) < _MOST_DENYING:
            denials[which] += 1

    def key(self, name: str) -> tuple[str, str]:
        """The key of its record."""
        return name, self._qualifier

    def call(self, name: str, op: int, cost: int, ticket: str, floor: int = 0, max_wait: int = 0) -> Call:
        """The call that asks for ``cost``; of a concurrency limit, for one place, whatever the cost.

        Raises:
            ConfigurationError: more than there ever is.
        """
        plain = cost == 1 and type(cost) is int and not (floor or max_wait)
        event = self._of_one.get(op) if plain else None
        if event is not None:
            return _new(Call, (self.policy, (name, self._qualifier), event, self._config, ticket))
        if self.policy is CONCURRENCY:
            cost = 1
        elif type(cost) is not int or not 1 <= cost <= self.allowance:
            raise ConfigurationError(
                f"cost={cost!r} of {name!r} should be a whole number from 1 to the limit, {self.allowance}: "
                "waiting would never help"
            )
        values = {"op": op, "cost": cost, "slots": self.allowance - cost, "floor": floor, "max_wait": max_wait}
        event = tuple(values[name] for name in self.policy.event)
        if plain:
            self._of_one[op] = event
        return Call(self.policy, (name, self._qualifier), event, self._config, ticket)

    def quick(self, backend: Backend) -> Callable[[str], Decision] | None:
        """What hits this limit alone, by the key's name, at a cost of 1; None if ``backend`` has no quicker way."""
        ask = backend.hit(self.call("", HIT, 1, ""))
        if ask is None:
            return None
        allowance, new, ticket_of, denied = self.allowance, tuple.__new__, new_ticket, self.denied

        def hit(name: str) -> Decision:
            ticket = ticket_of()
            verdict = ask(name, ticket)
            allowed = verdict[0] == 1
            if not allowed:
                denied()
            reset, wait = verdict[3] / SECOND, verdict[1] / SECOND
            return new(Decision, (allowed, allowance, verdict[2], reset, wait, ticket, 0, 0, 1, False, allowed, False))

        return hit
