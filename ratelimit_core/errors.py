"""The errors of this library: one small tree. An error that refuses a call carries ``retry_after``."""

from __future__ import annotations

from typing import Self


class ResilienceError(Exception):
    """The root. ``retry_after`` is in seconds, or None where waiting does not help."""

    retry_after: float | None = None


class _Refused(ResilienceError):
    """A call was not made. The last of ``args`` is ``retry_after``."""

    retry_after: float

    def waiting(self, seconds: float) -> Self:
        """Say that the wait is ``seconds`` instead; returns itself."""
        self.retry_after = seconds
        self.args = (*self.args[:-1], seconds)
        return self


class CircuitBreakerError(_Refused):
    """A call was refused because the breaker ``breaker_name`` is open.

    Attributes:
        breaker_name: whose refusal it is.
        state: ``"open"``; ``"half_open"`` when all probes are taken; ``"slow_start"`` when it has closed of late.
        retry_after: seconds until the next probe may be let through.
        failure_count: consecutive failures, as the store counts them.
        last_failure_time, next_attempt_time: seconds since the epoch on the store's clock, or None.
        recovery_time: the length of the present wait in seconds.
    """

    def __init__(
        self,
        breaker_name: str,
        state: str = "open",
        retry_after: float = 0.0,
        *,
        failure_count: int = 0,
        last_failure_time: float | None = None,
        next_attempt_time: float | None = None,
        recovery_time: float = 0.0,
    ) -> None:
        super().__init__(breaker_name, state, retry_after)
        self.breaker_name = breaker_name
        self.state = state
        self.retry_after = retry_after
        self.failure_count = failure_count
        self.last_failure_time = last_failure_time
        self.next_attempt_time = next_attempt_time
        self.recovery_time = recovery_time

    def __str__(self) -> str:
        return f"{self.breaker_name!r} {self.state.replace('_', '-')}, retry in {_seconds(self.retry_after)}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self})"


class RateLimitExceeded(_Refused):
    """A call was refused because a limit is reached. It says which; not whose call it was, since that may be a person.

    Attributes:
        key: what the call counted by.
        limit, remaining: of the limit that has the least left.
        retry_after: seconds until asking again makes sense, the largest over all limits asked.
        reset_after: seconds until all that was used is back.
        denied_by: the limit that makes wait longest, by its place.
        reservation_kept: whether a reserved slot that was presented is still held.
    """

    def __init__(
        self,
        key: str,
        retry_after: float = 0.0,
        *,
        name: str = "",
        limit: int = 0,
        remaining: int = 0,
        reset_after: float = 0.0,
        denied_by: int = 0,
        reservation_kept: bool = False,
    ) -> None:
        super().__init__(name or key, retry_after)
        self.key = key
        self.retry_after = retry_after
        self.limit = limit
        self.remaining = remaining
        self.reset_after = reset_after
        self.denied_by = denied_by
        self.reservation_kept = reservation_kept

    def __str__(self) -> str:
        return f"{self.args[0]!r} limited, retry in {_seconds(self.retry_after)}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self})"


class BackendError(ResilienceError):
    """The store did not answer, or not in time. Raised ``from`` the driver's own error.

    Attributes:
        away: whether that says something of the store. False: this one question could not be put, since the caller's
            own transaction is broken, say; the next one may be answered.
    """

    away = True

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BackendContention(BackendError):
    """The store is there, but others held what this question needs for longer than it may take.

    It says nothing of the store, so nobody takes that for away; ``retry_after`` is what this question has waited.
    """

    away = False


class ConfigurationError(ResilienceError, ValueError):
    """An option is wrong. The message names it and says what to write instead."""


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
