"""The input and the output of the breaker policy, with names.

The policy takes and returns flat tuples of integers, and the classes here are named tuples. Times and durations are in
µs. Rates and chances are in thousandths.
"""

from __future__ import annotations

import zlib
from typing import Any, NamedTuple

from .._util.clock import SECOND, microseconds
from ..config.breaker import CircuitBreakerConfig
from ..errors import CircuitBreakerError
from ..policies.circuit_breaker import AUTOMATIC, CLOSED, DISABLED, FORCED_CLOSED, FORCED_OPEN, HALF_OPEN, OPEN, SHADOW

STATES = {CLOSED: "closed", OPEN: "open", HALF_OPEN: "half_open"}
MODES = {
    AUTOMATIC: "automatic",
    FORCED_OPEN: "forced_open",
    FORCED_CLOSED: "forced_closed",
    DISABLED: "disabled",
    SHADOW: "shadow",
}
_DAY = 24 * 3600 * SECOND


class BreakerEvent(NamedTuple):
    """One operation on a breaker, in the order of the policy's signature.

    Attributes:
        op: ``ASK``, ``REPORT``, ``PEEK`` or ``FORCE``.
        generation: the generation that the outcomes belong to; 0 if the caller does not know the generation.
        successes: the number of calls that succeeded.
        success_age: the time since the newest success. If ``generation`` is 0, the time since the call began.
        failures: the number of calls that failed.
        slow_calls: the number of calls that were slow.
        duration: for a failure, the time for which the breaker opens; for ``FORCE``, the time for which the mode lasts.
            0 if no time is given.
        random_permille: a random number below 1000, for ``slow_start``.
        new_mode: the mode that ``FORCE`` sets.
    """

    op: int
    generation: int = 0
    successes: int = 0
    success_age: int = 0
    failures: int = 0
    slow_calls: int = 0
    duration: int = 0
    random_permille: int = 0
    new_mode: int = AUTOMATIC


class BreakerPolicyConfig(NamedTuple):
    """The configuration of a breaker, in the order of the policy's signature."""

    failure_threshold: int
    success_threshold: int
    spare_probes: int
    recovery_timeout: int
    backoff_permille: int
    max_interval: int
    reset_timeout: int
    probe_timeout: int
    record_ttl: int
    window: int
    minimum_calls: int
    failure_permille: int
    slow_permille: int
    slow_start: int
    shadow: int
    fingerprint: int


def policy_config(config: CircuitBreakerConfig, *, compared: bool = True) -> BreakerPolicyConfig:
    """Return the configuration in the form that the policy takes.

    If ``compared``, the configuration has a fingerprint. Processes notice by their fingerprints that they configure a
    breaker differently.
    """
    counts_rates = config.failure_rate is not None or config.slow_call_rate is not None
    converted = BreakerPolicyConfig(
        failure_threshold=config.failure_threshold,
        success_threshold=config.success_threshold,
        spare_probes=config.half_open_max_calls - 1,
        recovery_timeout=microseconds(config.recovery_timeout),
        backoff_permille=round(config.exponential_backoff_multiplier * 1000),
        max_interval=microseconds(config.exponential_backoff_max),
        reset_timeout=microseconds(config.reset_timeout),
        probe_timeout=microseconds(config.probe_timeout),
        record_ttl=0,
        window=microseconds(config.window) if counts_rates else 0,
        minimum_calls=config.minimum_calls,
        failure_permille=round((config.failure_rate or 0) * 1000),
        slow_permille=round((config.slow_call_rate or 0) * 1000),
        slow_start=microseconds(config.slow_start),
        shadow=int(config.shadow),
        fingerprint=0,
    )
    return converted._replace(
        record_ttl=max(
            _DAY,
            converted.reset_timeout,
            converted.recovery_timeout,
            converted.max_interval,
            2 * converted.window,
            2 * converted.probe_timeout,
        ),
        fingerprint=_fingerprint(converted) if compared else 0,
    )


def _fingerprint(config: BreakerPolicyConfig) -> int:
    """Return a hash of the configuration, without ``probe_timeout``, which may differ between processes."""
    until_reset = tuple(config[: config._fields.index("probe_timeout")])
    from_window = tuple(config[config._fields.index("window") : config._fields.index("fingerprint")])
    return zlib.crc32(repr((until_reset, from_window)).encode()) or 1


class BreakerVerdict(NamedTuple):
    """The policy's verdict: the decision, the new record, and the change of the probes' leases.

    Attributes:
        allowed: 1, or 0 if the call is rejected.
        wait: the time until the caller may ask again. The policy's function says when an allowed call has a ``wait``.
        previous_state: the breaker's own state before this call.
        probes: the number of probes that ran before this call.
        state: the breaker's own state after this call. An override may hide this state, see :attr:`effective_state`.
        add: 1 if this call added a probe's lease.
    """

    allowed: int
    wait: int
    previous_state: int
    probes: int
    expires: int
    state: int
    generation: int
    failure_count: int
    last_failure_at: int
    changed_at: int
    retry_at: int
    open_interval: int
    probe_successes: int
    window_start: int
    calls: int
    failed: int
    slowed: int
    calls_before: int
    failed_before: int
    slowed_before: int
    mode: int
    mode_until: int
    last_fingerprint: int
    drop: int
    add: int
    ends: int

    @property
    def record(self) -> tuple[int, ...]:
        """The fields of the stored record."""
        return tuple(self)[_RECORD]

    @property
    def effective_state(self) -> int:
        """The state that callers see. An override takes precedence over the breaker's own state."""
        if self.mode == FORCED_OPEN:
            return OPEN
        return CLOSED if self.mode in (FORCED_CLOSED, DISABLED) else self.state

    def in_shadow_mode(self, configured: bool) -> bool:
        """Return whether the breaker rejects no call. An override takes precedence over the option ``configured``."""
        return self.mode == SHADOW or (configured and self.mode == AUTOMATIC)

    def is_probe(self, shadow: bool) -> bool:
        """Return whether the allowed call is a probe. In shadow mode, a half-open breaker also allows other calls."""
        return self.effective_state == HALF_OPEN and (self.add > 0 or not self.in_shadow_mode(shadow))

    @property
    def next_attempt_time(self) -> float | None:
        """The time of the next probe in seconds since the epoch.

        None if the breaker is not open, or is forced open without an end.
        """
        if self.mode == FORCED_OPEN and self.state == OPEN and self.mode_until:
            return max(self.mode_until, self.retry_at) / SECOND
        if self.mode == FORCED_OPEN:
            return self.mode_until / SECOND or None
        return self.retry_at / SECOND if self.effective_state == OPEN else None

    @property
    def open_duration(self) -> float:
        """The seconds from the opening of an open breaker to its next probe.

        If the breaker is not open, the last interval of the backoff in seconds.
        """
        if self.state == OPEN:
            return (self.retry_at - self.changed_at) / SECOND
        return self.open_interval / SECOND


_RECORD = slice(BreakerVerdict._fields.index("state"), BreakerVerdict._fields.index("drop"))


def error_of(name: str, verdict: BreakerVerdict | None, wait: int) -> CircuitBreakerError:
    """Return the error for a rejected call. ``wait`` is its ``retry_after`` in µs."""
    return CircuitBreakerError(name, retry_after=wait / SECOND, **error_details(verdict))


def error_details(verdict: BreakerVerdict | None) -> dict[str, Any]:
    """Return the arguments of :class:`CircuitBreakerError` besides the name and the wait. Empty without a verdict."""
    if verdict is None:
        return {}
    return {
        "state": "slow_start" if verdict.effective_state == CLOSED else STATES[verdict.effective_state],
        "failure_count": verdict.failure_count,
        "last_failure_time": verdict.last_failure_at / SECOND or None,
        "next_attempt_time": verdict.next_attempt_time,
        "recovery_time": verdict.open_duration,
    }


def status(
    name: str, verdict: BreakerVerdict, config: CircuitBreakerConfig | None, stats: dict[str, int]
) -> dict[str, Any]:
    """Return the result of :meth:`CircuitBreaker.get_status`. If ``config`` is None, values that need it are None."""
    shadow = verdict.in_shadow_mode(config is not None and config.shadow)
    return {
        "name": name,
        "state": STATES[verdict.effective_state],
        "mode": MODES[verdict.mode],
        "mode_until": verdict.mode_until / SECOND or None,
        "shadow": None if config is None and verdict.mode == AUTOMATIC else shadow,
        "failure_count": verdict.failure_count,
        "failure_threshold": None if config is None else config.failure_threshold,
        "last_failure_time": verdict.last_failure_at / SECOND or None,
        "changed_at": verdict.changed_at / SECOND or None,
        "next_attempt_time": verdict.next_attempt_time,
        "backoff_time": verdict.open_duration,
        "half_open_calls": verdict.probes,
        "stats": dict(stats),
    }
