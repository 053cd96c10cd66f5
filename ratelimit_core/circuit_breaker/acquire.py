"""Acquire a permit for a call: from the cached verdict, from the store, or without the store."""

from __future__ import annotations

import random
from collections.abc import Sequence

from .._util.aio import acquired
from .._util.ids import new_id
from ..errors import BackendError, CircuitBreakerError
from ..events import ConfigMismatch
from ..policies import Verdict
from ..policies.circuit_breaker import ASK, CLOSED
from ..protocol.breaker import BreakerEvent, BreakerVerdict
from ..store.drive import Steps, adrive, drive
from .announce import apply_and_announce
from .cache import BreakerCache, CachedVerdict
from .permit import Permit, probes


def acquire(cache: BreakerCache, lease_id: str = "") -> Permit:
    """Acquire a permit, as :meth:`CircuitBreaker.acquire` describes.

    Costs no round trip if the cached verdict decides, otherwise one. A change of state costs one more, for the history.
    """
    permit = cached_permit(cache)
    return drive(acquire_uncached(cache, lease_id or new_id()), cache.store) if permit is None else permit


async def aacquire(cache: BreakerCache, lease_id: str = "") -> Permit:
    """Do as :func:`acquire` does, without blocking the event loop."""
    permit = cached_permit(cache)
    if permit is None:
        asking = adrive(acquire_uncached(cache, lease_id or new_id()), cache.store)
        permit = await acquired(asking, Permit.acancel)
    return permit


def cached_permit(cache: BreakerCache) -> Permit | None:
    """Issue a permit from the cached verdict, or return None if the store has to be asked.

    Raises:
        CircuitBreakerError: the breaker rejects the call, and it is too early to ask the store again.
    """
    now = cache.clock()
    cached = cache.cached
    if now < cached.fresh_until:
        if cache.shadowing:
            cache.shadow_rejections += 1
        return Permit(cache, cached.generation, local=cached.local)
    for probe in probes.get():
        if probe.is_of(cache) and probe.generation == cached.generation and not probe.settled:
            return Permit(cache, cached.generation, local=cached.local)
    if now < cache.reject_until:
        raise cache.reject(max(0, cache.retry_at - now))
    return None


def permit_since(cache: BreakerCache, cached: CachedVerdict, began_at: int) -> Permit:
    """Return the permit of a call that began at ``began_at`` (µs), when ``cached`` was the cached verdict."""
    permit = Permit(cache, cached.generation, local=cached.local)
    permit.began_at = began_at
    return permit


def unsolicited_permit(cache: BreakerCache) -> Permit:
    """Return a permit to report a call that was made without a permit.

    The outcome is reported at once, as for a probe, unless the cached verdict says closed or shadow mode.
    """
    cached = cache.cached
    return Permit(cache, cached.generation, probe=not cached.fresh_until, local=cached.local)


def acquire_uncached(cache: BreakerCache, lease_id: str) -> Steps[Permit]:
    """Ask the store for a permit, without using the cached verdict.

    Raises:
        CircuitBreakerError: the breaker rejects the call.
    """
    question = AcquireQuestion(cache, lease_id)
    try:
        verdicts = yield "apply", question.calls
    except BackendError as error:
        return (yield from question.on_unavailable(error))
    except BaseException:  # the caller was cancelled while it waited
        question.on_discarded()
        raise
    return (yield from question.on_acquired(BreakerVerdict._make(verdicts[0])))


class AcquireQuestion:
    """A question to the store whether a call may be made. The question also reports the pending successes.

    When the store has answered or failed, call exactly one of the ``on_`` methods.

    Attributes:
        calls: the calls that ask the store. They may share a round trip with other calls.
    """

    __slots__ = ("_cache", "_event", "_lease_id", "calls")

    def __init__(self, cache: BreakerCache, lease_id: str) -> None:
        self._cache = cache
        self._lease_id = lease_id
        now = cache.clock()
        generation = cache.extend_while_asking(now)
        successes, age = cache.take_pending(), now - cache.last_success_at
        chance = random.randrange(1000) if cache.config.slow_start else 0
        self._event = BreakerEvent(ASK, generation, successes, age, random_permille=chance)
        self.calls = [cache.call(self._event, lease_id)]

    def on_verdicts(self, verdicts: Sequence[Verdict], *, allowed: bool) -> Steps[Permit | None]:
        """Handle the store's answer. Return the permit, or None if another call of the round trip was denied.

        ``allowed``: whether all calls of the round trip were allowed.

        Raises:
            CircuitBreakerError: the breaker rejects the call.
        """
        verdict = BreakerVerdict._make(verdicts[0])
        if allowed or not verdict.allowed:
            return (yield from self.on_acquired(verdict))
        self.on_discarded()
        if verdict.previous_state == verdict.state:  # nothing was written, so a change of state did not happen
            self._cache.update(verdict, local=False, asked=True)
        return None

    def on_acquired(self, verdict: BreakerVerdict, *, local: bool = False) -> Steps[Permit]:
        """Handle a verdict whose new record was written, or a rejection. Return the permit.

        ``local``: whether the verdict comes from the memory of this process.

        Raises:
            CircuitBreakerError: the breaker rejects the call.
        """
        cache = self._cache
        if not verdict.allowed:
            self.on_discarded()
        yield from apply_and_announce(cache, verdict, local=local, written=bool(verdict.allowed), asked=True)
        if cache.compares and not local and verdict.last_fingerprint not in (0, cache.policy_config.fingerprint):
            cache.compares = False
            yield "emit", ConfigMismatch(cache.config.name)
        if not verdict.allowed:
            raise cache.reject(verdict.wait)
        probe = verdict.is_probe(cache.config.shadow)
        if probe:
            cache.probes += 1
        elif verdict.effective_state != CLOSED:
            cache.shadow_rejections += 1
        return Permit(cache, verdict.generation, lease_id=self._lease_id, probe=probe, local=local)

    def on_unavailable(self, error: BackendError) -> Steps[Permit]:
        """Decide by ``on_store_failure``, because the store is unavailable. Costs no round trip.

        Raises:
            CircuitBreakerError: the breaker rejects the call.
        """
        self.on_discarded()
        cache = self._cache
        cache.expire()
        if cache.config.on_store_failure == "allow":
            return Permit(cache, 0, local=True)
        if cache.config.on_store_failure == "deny":
            cache.rejections += 1
            raise CircuitBreakerError(cache.config.name, "open", error.retry_after or 0.0)
        if (wait := cache.open_for(cache.clock())) > 0:  # this process knows that the breaker is open
            raise cache.reject(wait)
        if cache.override_allows():
            return Permit(cache, 0, local=True)
        again = AcquireQuestion(cache, self._lease_id)
        verdict = BreakerVerdict._make(cache.store.local.apply(again.calls)[0])
        return (yield from again.on_acquired(verdict, local=True))

    def on_discarded(self) -> None:
        """Restore the pending successes, because the store has not recorded them."""
        self._cache.restore_pending(self._event)
