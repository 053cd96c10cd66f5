"""Operations for operators: inspect a breaker, override it for the whole fleet, or reset it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, cast

from .._util.clock import LONGEST, SECOND, microseconds
from ..errors import BackendError, ConfigurationError
from ..policies import BREAKER, TOKEN_BUCKET
from ..policies.circuit_breaker import AUTOMATIC, CLOSED, DISABLED, FORCE, FORCED_CLOSED, FORCED_OPEN, SHADOW
from ..protocol.breaker import MODES, STATES, BreakerEvent, BreakerVerdict, status
from ..protocol.internal_keys import turns_of
from . import history
from .cache import BreakerCache


class ManualControl(ABC):
    """A breaker's operations for operators.

    The ``author`` and ``reason`` of an override appear in the breaker's status and history.
    """

    name: str

    @abstractmethod
    def _resolve(self) -> BreakerCache:
        """Return the cache of the breaker in this process."""

    def force_open(self, author: str = "", reason: str = "", ttl: float | None = None) -> None:
        """Reject every call in the whole fleet, for ``ttl`` seconds or until another operation ends this mode.

        Other processes notice the override within ``cache_ttl`` seconds. A process that is rejecting calls notices it
        within a second. Setting any mode costs three round trips.

        Raises:
            BackendError: the store is unavailable. If it only answered too late, the mode may be set nevertheless.
            ConfigurationError: ``ttl`` is not more than 0 and at most 400 days, or an argument has a wrong type.
        """
        self._force(FORCED_OPEN, author, reason, ttl)

    def force_closed(self, author: str = "", reason: str = "", ttl: float | None = None) -> None:
        """Permit every call, even if all calls fail. Failures are still counted. See :meth:`force_open`."""
        self._force(FORCED_CLOSED, author, reason, ttl)

    def disable(self, author: str = "", reason: str = "", ttl: float | None = None) -> None:
        """Permit every call, and count no outcomes. See :meth:`force_open`."""
        self._force(DISABLED, author, reason, ttl)

    def shadow(self, author: str = "", reason: str = "", ttl: float | None = None) -> None:
        """Decide and report as always, but permit every call. See :meth:`force_open`."""
        self._force(SHADOW, author, reason, ttl)

    def clear_override(self, author: str = "", reason: str = "") -> None:
        """End an override. The breaker decides again, from its present state and counts. See :meth:`force_open`."""
        self._force(AUTOMATIC, author, reason, None)

    def _force(self, mode: int, author: str, reason: str, ttl: float | None) -> None:
        if ttl is not None and not (type(ttl) in (int, float) and 0 < ttl <= LONGEST / SECOND):
            raise ConfigurationError(f"ttl={ttl!r} should be seconds, more than 0 and at most 400 days, or None")
        cache = self._resolve()
        entry = history.override_entry(self.name, MODES[mode], author, reason, ttl)
        event = BreakerEvent(FORCE, duration=0 if ttl is None else microseconds(ttl), new_mode=mode)
        verdict = BreakerVerdict._make(cache.store.backend.apply_unguarded([cache.call(event)])[0])
        cache.update(verdict, local=False, asked=False)
        history.write(cache.store.backend, entry)

    def reset(self, author: str = "", reason: str = "") -> None:
        """Close the breaker, end an override and delete all counts, in the whole fleet. The history stays.

        Other processes notice the reset within ``cache_ttl`` seconds. A process that is rejecting calls notices it
        within a second. On Redis a reset costs six round trips, and one more for each resume rate in use. It reads the
        list of all token buckets in the store.

        Raises:
            BackendError: the store is unavailable. Perhaps only this process has forgotten the breaker's state.
            ConfigurationError: ``author`` or ``reason`` is not a string.
        """
        cache = self._resolve()
        entry = history.override_entry(self.name, "reset", author, reason, None)
        cache.forget()
        peek, store = cache.peek_call(), cache.store
        store.local.delete(BREAKER, [peek.key])
        # Ask the store even if the backend's own breaker is open. An unavailable store raises here.
        store.backend.apply_unguarded([peek])
        store.backend.delete(BREAKER, [peek.key])
        for key in store.backend.keys(TOKEN_BUCKET):
            if key[0] == turns_of(self.name):  # deferred tasks may hold reservations for up to a day ahead
                store.backend.delete(TOKEN_BUCKET, [key])
        history.write(store.backend, entry)

    def history(self) -> list[dict[str, Any]]:
        """Return the last 100 changes, newest first. Costs one round trip.

        Each change is a dictionary:

        * ``at``: when it happened, in seconds since the epoch.
        * ``event``: ``opened``, ``half_open``, ``closed``, ``reset``, or the mode that an operator set.
        * ``failure_count``: the breaker's failures at that time.
        * ``retry_after``: for how many seconds the breaker opened, or 0 if it did not open.
        * ``shadow``: whether shadow mode kept the breaker from rejecting calls.
        * ``author``, ``reason``, ``ttl``: the operator's arguments, empty or None if calls caused the change.

        A change is missing if the process that caused it was killed before it wrote the entry.

        Raises:
            BackendError: the store is unavailable.
            CircuitBreakerError: the store's own breaker is open.
        """
        return history.read(self._resolve().store.backend, self.name)

    def peek(self, refresh: bool = False) -> tuple[str, float]:
        """Return the state, and for how many seconds calls are rejected, without making a call.

        If the state is open or half-open and the time is 0, the next call may be a probe. This method does not use up a
        probe, and there is no outcome to record. The state of a breaker in shadow mode is returned as closed.

        Costs one round trip if ``refresh`` is true or the cached verdict has expired, and none otherwise. If the store
        is unavailable, a breaker that this process knows to be open stays open until its deadline. The state of every
        other breaker is returned as closed.
        """
        cache = self._resolve()
        now = cache.clock()
        if now < cache.cached.fresh_until and not refresh:
            return "closed", 0.0
        if now >= cache.reject_until or refresh:
            try:
                verdict = BreakerVerdict._make(cache.store.apply([cache.peek_call()])[0])
            except BackendError:
                left = max(0, cache.open_for(now))
                return ("open" if left else "closed"), left / SECOND
            cache.update(verdict, local=False, asked=False)
        if cache.last is None or cache.shadowing or cache.last.effective_state == CLOSED:
            return "closed", 0.0
        return STATES[cache.last.effective_state], cache.seconds_to_probe()

    def get_status(self) -> dict[str, Any]:
        """Return the breaker's status from the store, or from this process while the store is unavailable.

        Costs one round trip, or two while an override is in force. The status is a dictionary. Its times are seconds
        since the epoch on the store's clock. A time is None if the event has not happened or is not expected.

        * ``name``: the breaker's name.
        * ``state``: ``closed``, ``open`` or ``half_open``, as callers see it.
        * ``failure_count``, ``failure_threshold``: the failures so far, and the number that opens the breaker.
        * ``last_failure_time``, ``changed_at``: when a call failed last, and when the state changed last.
        * ``next_attempt_time``: when the breaker may be probed, if it is open.
        * ``backoff_time``: for how many seconds the breaker is open now, or was open last.
        * ``half_open_calls``: how many probes are running.
        * ``stats``: the counts of this process, see :attr:`stats`.
        * ``shadow``: whether shadow mode keeps the breaker from rejecting calls.
        * ``mode``, ``mode_until``: the mode, and when the mode ends.
        * ``author``, ``reason``: the arguments of the operator that set the mode.
        """
        cache = self._resolve()
        verdict = read_record(cache)
        found = status(self.name, verdict, cache.config, cache.stats())
        mode = verdict.mode if cache.store.available else AUTOMATIC  # only the store knows the author of an override
        return found | history.current_override(cache.store.backend, self.name, mode)

    @property
    def state(self) -> str:
        """``"closed"``, ``"open"`` or ``"half_open"``. Costs as many round trips as :meth:`get_status`."""
        return cast(str, self.get_status()["state"])

    @property
    def stats(self) -> dict[str, int]:
        """The calls that this process counted. Costs no round trip.

        * ``successes``, ``failures``: the outcomes of calls.
        * ``rejections``: the calls that the breaker rejected.
        * ``shadow_rejections``: the calls that the breaker would have rejected without shadow mode.
        """
        return self._resolve().stats()


def read_record(cache: BreakerCache) -> BreakerVerdict:
    """Return the verdict on a peek at the breaker. Costs one round trip.

    While the store is unavailable, the verdict comes from this process.
    """
    call = cache.peek_call()
    try:
        return BreakerVerdict._make(cache.store.apply([call])[0])
    except BackendError:
        if cache.last is not None and cache.open_for(cache.clock()) > 0:
            return cache.last
        return BreakerVerdict._make(cache.store.local.apply([call])[0])
