"""A breaker's state as one process knows it: the store's latest verdict, and the outcomes that are not reported yet.

All objects of a defined breaker share one :class:`BreakerCache` in a process. Permits are issued from a
:class:`CachedVerdict`, an immutable object that is replaced atomically, so no lock is needed. If two threads replace it
at the same time, the cost is at most one more round trip, and no permit is wrong.
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
    """The verdict from which permits are issued. Times are µs on the cache's clock.

    Attributes:
        fast_until: until this time a call needs no :class:`Permit`, because its success is only counted.
        fresh_until: until this time permits are issued without a round trip.
        valid_until: until this time other threads may use the verdict while one thread refreshes it.
        generation: the generation of the permits.
        local: whether the verdict comes from the memory of this process, because the store was unavailable.
    """

    fast_until: int
    fresh_until: int
    valid_until: int
    generation: int
    local: bool


_NOTHING = CachedVerdict(0, 0, 0, 0, False)


class BreakerCache:
    """The state of one breaker as this process knows it. Times are µs on ``clock``.

    Args:
        config: the breaker's settings.
        store: a function that returns the store. It is called when the store is first needed.
        clock: measures how old the verdict is.
        compared: whether to notice processes that define the breaker differently.

    Attributes:
        cached: the verdict from which permits are issued.
        last: the latest verdict, or None.
        pending_successes: the number of successes of the cached generation that are not reported yet.
        last_success_at: when the newest pending success happened.
        failure_count: the failures of the closed breaker, which the next success has to reset.
        reject_until: until this time calls are rejected without a round trip.
        retry_at: when the breaker may be probed, as far as this process knows.
        shadowing: whether the breaker is open or half-open in shadow mode, so that all calls are permitted.
        successes, failures, rejections, shadow_rejections, probes: the counts of this process.
    """

    __slots__ = (  # to save memory: a template may have a thousand instances
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
        """Forget the latest verdict and the outcomes that are not reported yet."""
        self.cached = _NOTHING
        self.last: BreakerVerdict | None = None
        self.pending_successes = 0
        self.last_success_at = 0
        self.failure_count = 0
        self.reject_until = 0
        self.retry_at = 0
        self.shadowing = False
        self._details: tuple[BreakerVerdict | None, dict[str, Any]] = (None, {})  # details for errors

    def reset_local_state(self) -> None:
        """Forget everything, including the counts of this process. The next question looks up the store again."""
        self.forget()
        self._after_fork()
        self._store = None

    def _after_fork(self) -> None:
        """Leave pending outcomes and counts to the parent. The child still knows whether the breaker is open."""
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
        """Return the call that applies ``event`` to the breaker's record."""
        return Call(BREAKER, self._key, event, self.policy_config, lease_id)

    def peek_call(self) -> Call:
        """Return the call that reads the breaker's record without changing it."""
        return self.call(BreakerEvent(PEEK))

    def is_current(self, generation: int, local: bool) -> bool:
        """Return whether a permit belongs to the cached generation."""
        cached = self.cached
        return generation == cached.generation and local == cached.local

    # The verdict

    def update(self, verdict: BreakerVerdict, *, local: bool, asked: bool) -> None:
        """Cache the verdict. ``asked``: whether the verdict answers a request for a permit."""
        if not verdict.generation:  # the store has no record: no process has asked yet, or the breaker was reset
            self.forget()
            return
        now = self.clock()
        state, generation = verdict.effective_state, verdict.generation
        same_generation = self.is_current(generation, local)
        self.failure_count = verdict.failure_count if verdict.state == CLOSED and verdict.mode != DISABLED else 0
        self.shadowing = state != CLOSED and verdict.in_shadow_mode(self.config.shadow)
        if state == CLOSED or self.shadowing:
            # In slow start every call has to ask. Only answers to requests for permits say when slow start is over.
            ttl = 0 if verdict.wait or (self.config.slow_start and not asked) else self._ttl
            fresh_until = now + int(ttl * random.uniform(0.8, 1.0))  # so that processes do not refresh all at once
            fast = state == CLOSED and not self.failure_count and self._is_plain
            self.cached = CachedVerdict(fresh_until if fast else 0, fresh_until, now + ttl, generation, local)
            self.reject_until = self.retry_at = 0
        else:
            self.cached = CachedVerdict(0, 0, 0, generation, local)
            self.retry_at = now + verdict.wait
            self.reject_until = min(self.retry_at, now + SECOND)  # so that this process notices a manual reset
        self.last = verdict
        if not same_generation:
            self.pending_successes = 0

    def expire(self) -> None:
        """Stop issuing permits from the cached verdict."""
        self.cached = CachedVerdict(0, 0, 0, self.cached.generation, self.cached.local)

    def extend_while_asking(self, now: int) -> int:
        """Let other threads use the cached verdict while this thread asks, unless the verdict is too old.

        Return the verdict's generation.
        """
        cached = self.cached
        if now < cached.valid_until:
            self.cached = CachedVerdict(0, now + self._ttl, cached.valid_until, cached.generation, cached.local)
        return cached.generation

    def open_for(self, now: int) -> int:
        """Return for how many µs the breaker is still known to be open; 0 or less if it is not.

        While the breaker is forced open without an end, return at least the latest verdict's ``wait``.
        """
        last = self.last
        if last is None:
            return 0
        if last.mode == FORCED_OPEN and not last.mode_until:
            return max(self.retry_at - now, last.wait)
        return self.retry_at - now

    def override_allows(self) -> bool:
        """Return whether an override permits every call. The override stays in force while the store is unavailable."""
        last = self.last
        if last is None or last.mode not in (FORCED_CLOSED, DISABLED, SHADOW):
            return False
        return not last.mode_until or wall() < last.mode_until

    def seconds_to_probe(self) -> float:
        """Return the seconds until the breaker may be probed, as far as this process knows, or 0."""
        return max(0, self.retry_at - self.clock()) / SECOND

    def error(self, wait: int) -> CircuitBreakerError:
        """Return the error that says to wait for ``wait`` µs, with the details of the latest verdict."""
        if self._details[0] is not self.last:
            self._details = self.last, error_details(self.last)
        return CircuitBreakerError(self.config.name, retry_after=wait / SECOND, **self._details[1])

    def reject(self, wait: int) -> CircuitBreakerError:
        """Count a rejected call, and return its error."""
        self.rejections += 1
        return self.error(wait)

    # The outcomes

    def add_pending_success(self, generation: int, local: bool) -> bool:
        """Keep a success for the next report. Return False if its generation is not the cached one."""
        cached = self.cached
        if generation != cached.generation or local != cached.local:
            return False
        self.last_success_at = self.clock()
        self.pending_successes += 1
        return True

    def take_pending(self) -> int:
        """Return the number of successes to report. In half-open it is 0, as these calls were part of a probe."""
        successes, self.pending_successes = self.pending_successes, 0
        return 0 if successes and self.last is not None and self.last.effective_state == HALF_OPEN else successes

    def restore_pending(self, event: BreakerEvent) -> None:
        """Restore the pending successes of an event that the store did not record."""
        if event.generation == self.cached.generation:
            self.pending_successes += event.successes

    def stats(self) -> dict[str, int]:
        """Return the counts of this process."""
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
