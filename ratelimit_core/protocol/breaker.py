"""What the breaker policy answered, read: where things stand in it, and what is said of it."""

from __future__ import annotations

from typing import Any

from .._util.clock import SECOND
from ..config.breaker import CircuitBreakerConfig
from ..errors import CircuitBreakerError
from ..policies import BREAKER, OTHER_ANSWER, RECORD, Verdict
from ..policies.breaker import AUTOMATIC, CLOSED, DISABLED, FORCED_CLOSED, FORCED_OPEN, HALF_OPEN, OPEN, SHADOW

STATES = {CLOSED: "closed", OPEN: "open", HALF_OPEN: "half_open"}
MODES = {
    AUTOMATIC: "automatic",
    FORCED_OPEN: "forced_open",
    FORCED_CLOSED: "forced_closed",
    DISABLED: "disabled",
    SHADOW: "shadow",
}

STATE, GENERATION, FAILURES, LAST_FAILURE, CHANGED_AT, RETRY_AT, DELAY = range(RECORD, RECORD + 7)
MODE, MODE_UNTIL, SETTINGS = (RECORD + BREAKER.record.index(name) for name in ("mode", "mode_until", "settings"))
ADDED = -2


def state_of(verdict: Verdict) -> int:
    """The state as callers feel it: a forced one goes before the breaker's own."""
    mode = verdict[MODE]
    if mode == FORCED_OPEN:
        return OPEN
    return CLOSED if mode in (FORCED_CLOSED, DISABLED) else verdict[STATE]


def in_shadow(verdict: Verdict, shadow: bool) -> bool:
    """Whether nobody is refused. ``shadow`` is what the configuration says; a forced mode goes before it."""
    return verdict[MODE] == SHADOW or (shadow and verdict[MODE] == AUTOMATIC)


def is_probe(verdict: Verdict, shadow: bool) -> bool:
    """Of an allowed question: whether the call holds one of the few places. In the shadow not all do."""
    return state_of(verdict) == HALF_OPEN and (verdict[ADDED] > 0 or not in_shadow(verdict, shadow))


def next_attempt(verdict: Verdict) -> float | None:
    """When it may be probed, in seconds since the epoch; None if it is not open, or nobody knows."""
    if verdict[MODE] == FORCED_OPEN and verdict[STATE] == OPEN and verdict[MODE_UNTIL]:
        return max(verdict[MODE_UNTIL], verdict[RETRY_AT]) / SECOND
    if verdict[MODE] == FORCED_OPEN:
        return verdict[MODE_UNTIL] / SECOND or None
    return verdict[RETRY_AT] / SECOND if state_of(verdict) == OPEN else None


def length_of_wait(verdict: Verdict) -> float:
    """The length of the present or latest wait, in seconds."""
    if verdict[STATE] == OPEN:  # as long as the failure asked for, perhaps
        return (verdict[RETRY_AT] - verdict[CHANGED_AT]) / SECOND
    return verdict[DELAY] / SECOND


def refusal(name: str, verdict: Verdict, wait: int) -> CircuitBreakerError:
    """The error that says to wait for ``wait`` µs."""
    return CircuitBreakerError(name, retry_after=wait / SECOND, **details(verdict))


def details(verdict: Verdict) -> dict[str, Any]:
    """What a :class:`CircuitBreakerError` says besides the wait. ``verdict`` may be empty, where nothing is known."""
    if not verdict:
        return {}
    return {
        "state": "slow_start" if state_of(verdict) == CLOSED else STATES[state_of(verdict)],
        "failure_count": verdict[FAILURES],
        "last_failure_time": verdict[LAST_FAILURE] / SECOND or None,
        "next_attempt_time": next_attempt(verdict),
        "recovery_time": length_of_wait(verdict),
    }


def status(name: str, verdict: Verdict, config: CircuitBreakerConfig | None, stats: dict[str, int]) -> dict[str, Any]:
    """See :meth:`CircuitBreaker.get_status`. Without ``config`` what is said of the settings is None: not known."""
    shadow = in_shadow(verdict, config is not None and config.shadow)
    return {
        "name": name,
        "state": STATES[state_of(verdict)],
        "mode": MODES[verdict[MODE]],
        "mode_until": verdict[MODE_UNTIL] / SECOND or None,
        "shadow": None if config is None and verdict[MODE] == AUTOMATIC else shadow,
        "failure_count": verdict[FAILURES],
        "failure_threshold": None if config is None else config.failure_threshold,
        "last_failure_time": verdict[LAST_FAILURE] / SECOND or None,
        "changed_at": verdict[CHANGED_AT] / SECOND or None,
        "next_attempt_time": next_attempt(verdict),
        "backoff_time": length_of_wait(verdict),
        "half_open_calls": verdict[OTHER_ANSWER],
        "stats": dict(stats),
    }
