"""What one process knows of a breaker: the store's latest verdict, and the outcomes that are not reported yet.

There is one :class:`BreakerCache` for each breaker and process. Permits are issued from a :class:`CachedVerdict`, an
immutable object that is replaced atomically, so nothing here locks. Two threads that replace it at once cost one more
round trip, never a wrong permit.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from .._util.clock import SECOND, Clock, microseconds, wall
from .._util.fork import renewed_after_fork
from ..config.breaker import CircuitBreakerConfig
from ..errors import CircuitBreakerError
from ..policies import BREAKER
from ..policies.circuit_breaker import CLOSED, DISABLED, FORCED_CLOSED, FORCED_OPEN, HALF_OPEN, PEEK, SHADOW
from ..protocol.breaker import BreakerEvent, BreakerVerdict, error_details, policy_config
from ..protocol.call import Call
from ..store.fallback import Store


@dataclass(frozen=True, slots=True)
class CachedVerdict:
    """What permits are issued from. Times are µs on the cache's clock.

    Attributes:
        fast_until: until then a call needs no :class:`Permit`, since its success is only counted.
        fresh_until: until then permits are issued without a round trip.
        valid_until: until then one thread refreshes the verdict while the others still use it.
        generation: the generation of those permits.
        local: it comes from the memory of this process, because the store was unavailable.
    """

    fast_until: int
    fresh_until: int
    valid_until: int
    generation: int
    local: bool


_NOTHING = CachedVerdict(0, 0, 0, 0, False)


class BreakerCache:
    """What this process knows of one breaker.

    Args:
        config: the breaker's settings.
        store: returns the store; called at the first question.
        clock: measures how old the verdict is.
        compared: this process defines the breaker, so it notices if another one defines it differently.

    Attributes:
        cached: what permits are issued from.
        last: the latest verdict; None if there is none.
        pending_successes: successes of the cached generation that are not reported yet.
        last_success_at: when the newest of them happened.
        failure_count: the breaker's failures while it is closed; the next success has to reset them.
        reject_until: until then calls are rejected without a round trip.
        retry_at: when the breaker may be probed, as far as this process knows.
        shadowing: the breaker is open or half-open in shadow mode, so calls pass all the same.
        successes, failures, rejections, shadow_rejections, probes: what this process counted.
    """

    __slots__ = (  # a template may have a thousand instances
        "__weakref__", "_details", "_find_store", "_is_plain", "_key", "_store", "_ttl", "cached", "clock", "compares",
        "config", "failure_count", "failures", "last", "last_success_at", "pending_successes", "policy_config",
        "probes", "reject_until", "rejections", "retry_at", "shadow_rejections", "shadowing", "successes",
    )  # fmt: skip

    def __init__(
        self, config: CircuitBreakerConfig, store: Callable[[], Store], clock: Clock, *, compared: bool = True
    ) -> None:
        self.config = config
        self.clock = clock
        self.policy_config = policy_config(config, compared=compared)
        self.compares = compared
        self._find_store = store
        self._store: Store | None = None
        self._ttl = microseconds(config.cache_ttl)
        self._key = (config.name, "")
        self._is_plain = config.slow_call_duration is None and config.is_failure is None
        self.reset_local_state()
        _caches.add(self)

    def forget(self) -> None:
        """Forget the latest verdict, and the outcomes that are not reported."""
        self.cached = _NOTHING
        self.last: BreakerVerdict | None = None
        self.pending_successes = 0
        self.last_success_at = 0
        self.failure_count = 0
        self.reject_until = 0
        self.retry_at = 0
        self.shadowing = False
        self._details: tuple[BreakerVerdict | None, dict[str, Any]] = (None, {})  # those of errors, by verdict

    def reset_local_state(self) -> None:
        """Forget everything, what this process counted too, and look for the store again."""
        self.forget()
        self._after_fork()
        self._store = None

    def _after_fork(self) -> None:
        """Leave pending outcomes and counts to the parent. A known opening holds in the child too."""
        self.cached = _NOTHING
        self.pending_successes = 0
        self.successes = self.failures = self.rejections = self.shadow_rejections = self.probes = 0

    @property
    def store(self) -> Store:
        """The store that has the breaker's record."""
        if self._store is None:
            self._store = self._find_store()
        return self._store

    def call(self, event: BreakerEvent, lease_id: str = "") -> Call:
        """Return the call that asks a store."""
        return Call(BREAKER, self._key, event, self.policy_config, lease_id)

    def peek_call(self) -> Call:
        """Return the call that changes nothing."""
        return self.call(BreakerEvent(PEEK))

    def is_current(self, generation: int, local: bool) -> bool:
        """Return whether a permit is of the cached generation."""
        cached = self.cached
        return generation == cached.generation and local == cached.local

    # The verdict

    def update(self, verdict: BreakerVerdict, *, local: bool, asked: bool) -> None:
        """Cache the verdict. ``asked``: it answers a question for a permit."""
        if not verdict.generation:  # no process has asked yet, or the breaker was reset: no permit may rest on that
            self.forget()
            return
        now = self.clock()
        state, generation = verdict.effective_state, verdict.generation
        same_generation = self.is_current(generation, local)
        self.failure_count = verdict.failure_count if verdict.state == CLOSED and verdict.mode != DISABLED else 0
        self.shadowing = state != CLOSED and verdict.in_shadow_mode(self.config.shadow)
        if state == CLOSED or self.shadowing:
            # In slow start every call has to ask. Only the answer to a question for a permit says whether it goes on.
            ttl = 0 if verdict.wait or (self.config.slow_start and not asked) else self._ttl
            fresh_until = now + int(ttl * random.uniform(0.8, 1.0))  # so that processes don't ask in step
            fast = state == CLOSED and not self.failure_count and self._is_plain
            self.cached = CachedVerdict(fresh_until if fast else 0, fresh_until, now + ttl, generation, local)
            self.reject_until = self.retry_at = 0
        else:
            self.cached = CachedVerdict(0, 0, 0, generation, local)
            self.retry_at = now + verdict.wait
            self.reject_until = min(self.retry_at, now + SECOND)  # so that a manual reset is seen
        self.last = verdict
        if not same_generation:
            self.pending_successes = 0

    def expire(self) -> None:
        """Issue no more permits from the cached verdict."""
        self.cached = CachedVerdict(0, 0, 0, self.cached.generation, self.cached.local)

    def extend_while_asking(self, now: int) -> int:
        """Return the generation. Until the answer comes, other threads use the verdict, unless it is too old."""
        cached = self.cached
        if now < cached.valid_until:
            self.cached = CachedVerdict(0, now + self._ttl, cached.valid_until, cached.generation, cached.local)
        return cached.generation

    def open_for(self, now: int) -> int:
        """Return for how many µs the breaker is known to be open. Forced open without an end, it has no deadline."""
        last = self.last
        if last is None:
            return 0
        if last.mode == FORCED_OPEN and not last.mode_until:
            return max(self.retry_at - now, last.wait)
        return self.retry_at - now

    def override_allows(self) -> bool:
        """Return whether an operator has said to reject no call. That holds without the store, too."""
        last = self.last
        if last is None or last.mode not in (FORCED_CLOSED, DISABLED, SHADOW):
            return False
        return not last.mode_until or wall() < last.mode_until

    def seconds_to_probe(self) -> float:
        """Return the seconds until the breaker may be probed, as far as this process knows; 0 if it is closed."""
        return max(0, self.retry_at - self.clock()) / SECOND

    def error(self, wait: int) -> CircuitBreakerError:
        """Return the error that says to wait for ``wait`` µs, with what is known of the breaker."""
        if self._details[0] is not self.last:
            self._details = self.last, error_details(self.last)
        return CircuitBreakerError(self.config.name, retry_after=wait / SECOND, **self._details[1])

    def reject(self, wait: int) -> CircuitBreakerError:
        """Count a rejected call, and return its error."""
        self.rejections += 1
        return self.error(wait)

    # The outcomes

    def add_pending_success(self, generation: int, local: bool) -> bool:
        """Keep a success for the next report. Return False if it is not of the cached generation."""
        cached = self.cached
        if generation != cached.generation or local != cached.local:
            return False
        self.last_success_at = self.clock()
        self.pending_successes += 1
        return True

    def take_pending(self) -> int:
        """Return the successes to report. In half-open there are none: they were calls within a probe."""
        successes, self.pending_successes = self.pending_successes, 0
        return 0 if successes and self.last is not None and self.last.effective_state == HALF_OPEN else successes

    def restore_pending(self, event: BreakerEvent) -> None:
        """Take back the successes of an event that the store did not record."""
        if event.generation == self.cached.generation:
            self.pending_successes += event.successes

    def stats(self) -> dict[str, int]:
        """Return what this process counted."""
        return {
            "successes": self.successes,
            "failures": self.failures,
            "rejections": self.rejections,
            "shadow_rejections": self.shadow_rejections,
        }


_caches = renewed_after_fork(BreakerCache._after_fork)


def caches() -> list[BreakerCache]:
    """Return the caches of all breakers that this process uses."""
    while True:
        with suppress(RuntimeError):  # another thread has just made one
            return list(_caches)
