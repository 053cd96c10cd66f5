"""What an operator does to a breaker: looks at it, overrides it for the whole fleet, and resets it."""

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
    """What an operator can do to a breaker. ``author`` and ``reason`` appear in its status and history."""

    name: str

    @abstractmethod
    def _resolve(self) -> BreakerCache:
        """Return what this process knows of the breaker."""

    def force_open(self, author: str = "", reason: str = "", ttl: float | None = None) -> None:
        """Reject every call in the whole fleet, for ``ttl`` seconds or until further notice.

        Other processes see it within ``cache_ttl``, and within a second where calls are rejected. Three round trips,
        as for the other modes.

        Raises:
            BackendError: the store is unavailable, and nothing was changed.
            ConfigurationError: ``ttl`` is out of range, or ``author`` or ``reason`` is not a string.
        """
        self._force(FORCED_OPEN, author, reason, ttl)

    def force_closed(self, author: str = "", reason: str = "", ttl: float | None = None) -> None:
        """Reject no call, whatever fails; failures are still counted. See :meth:`force_open`."""
        self._force(FORCED_CLOSED, author, reason, ttl)

    def disable(self, author: str = "", reason: str = "", ttl: float | None = None) -> None:
        """Reject no call and count nothing. See :meth:`force_open`."""
        self._force(DISABLED, author, reason, ttl)

    def shadow(self, author: str = "", reason: str = "", ttl: float | None = None) -> None:
        """Decide and report as always, and reject no call. See :meth:`force_open`."""
        self._force(SHADOW, author, reason, ttl)

    def clear_override(self, author: str = "", reason: str = "") -> None:
        """End an override: the breaker decides again, from where it stood. See :meth:`force_open`."""
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
        """Close the breaker, end an override and forget all counts, in the whole fleet. The history stays.

        Other processes see it within a second. Six round trips on Redis, and one more for each resume rate in use. It
        reads the list of all token buckets that the store has.

        Raises:
            BackendError: the store is unavailable. What this process knew is forgotten all the same.
        """
        cache = self._resolve()
        entry = history.override_entry(self.name, "reset", author, reason, None)
        cache.forget()
        peek, store = cache.peek_call(), cache.store
        store.local.delete(BREAKER, [peek.key])
        store.backend.apply_unguarded([peek])  # raises if it is unavailable, whatever the backend's own breaker thinks
        store.backend.delete(BREAKER, [peek.key])
        for key in store.backend.keys(TOKEN_BUCKET):
            if key[0] == turns_of(self.name):  # tasks may have reserved their resumption for a day ahead
                store.backend.delete(TOKEN_BUCKET, [key])
        history.write(store.backend, entry)

    def history(self) -> list[dict[str, Any]]:
        """Return the last 100 changes, newest first. One round trip.

        Each has ``at`` (seconds since the epoch), ``event`` (``opened``, ``half_open``, ``closed``, a mode, or
        ``reset``), ``failure_count``, ``retry_after``, ``shadow`` (no call was rejected), and, of what an operator did,
        ``author``, ``reason`` and ``ttl``. A change is missing if its process was killed in that moment.

        Raises:
            BackendError: the store is unavailable.
        """
        return history.read(self._resolve().store.backend, self.name)

    def peek(self, refresh: bool = False) -> tuple[str, float]:
        """Return the state, and for how many seconds calls are rejected, without making a call.

        Open or half-open and 0 seconds: the breaker may be probed. This takes no probe's place, and needs no outcome.
        No round trip while the cached verdict is valid, unless ``refresh``; else one. While the store is unavailable,
        a known opening holds to its deadline; else the breaker counts as closed.
        """
        cache = self._resolve()
        now = cache.clock()
        if now < cache.cached.fresh_until and not refresh:
            return "closed", 0.0
        if now >= cache.reject_until or refresh:
            try:
                verdict = BreakerVerdict._make(cache.store.apply([cache.peek_call()])[0])
            except BackendError:  # a known opening holds to its deadline
                left = max(0, cache.open_for(now))
                return ("open" if left else "closed"), left / SECOND
            cache.update(verdict, local=False, asked=False)
        if cache.last is None or cache.shadowing or cache.last.effective_state == CLOSED:
            return "closed", 0.0
        return STATES[cache.last.effective_state], cache.seconds_to_probe()

    def get_status(self) -> dict[str, Any]:
        """Return the breaker's status from the store: one round trip, or two while an override is in force.

        ``name``, ``state`` (as callers see it), ``failure_count``, ``failure_threshold``, ``last_failure_time``,
        ``changed_at``, ``next_attempt_time`` (while open, else None), ``backoff_time`` (the length of the present or
        latest wait), ``half_open_calls`` (running probes), ``stats`` (of this process), ``shadow`` (no call is
        rejected), and ``mode``, ``mode_until``, ``author``, ``reason``. Times are seconds since the epoch on the
        store's clock; None where there was none.
        """
        cache = self._resolve()
        verdict = read_record(cache)
        found = status(self.name, verdict, cache.config, cache.stats())
        mode = verdict.mode if cache.store.available else AUTOMATIC  # only the store has its author
        return found | history.current_override(cache.store.backend, self.name, mode)

    @property
    def state(self) -> str:
        """``"closed"``, ``"open"`` or ``"half_open"``, from the store: one round trip."""
        return cast(str, self.get_status()["state"])

    @property
    def stats(self) -> dict[str, int]:
        """What this process counted: ``successes``, ``failures``, ``rejections``, ``shadow_rejections``. No round trip.

        The last are the calls that would have been rejected without shadow mode.
        """
        return self._resolve().stats()


def read_record(cache: BreakerCache) -> BreakerVerdict:
    """Read the record from the store or, while that is unavailable, from this process. One round trip."""
    call = cache.peek_call()
    try:
        return BreakerVerdict._make(cache.store.apply([call])[0])
    except BackendError:
        if cache.last is not None and cache.open_for(cache.clock()) > 0:
            return cache.last
        return BreakerVerdict._make(cache.store.local.apply([call])[0])
