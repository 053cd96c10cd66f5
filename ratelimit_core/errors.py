"""The errors of this library. Errors about calls that were rejected or denied carry ``retry_after``."""

from __future__ import annotations

from typing import Self


class ResilienceError(Exception):
    """The base class of this library's errors. ``retry_after`` is in seconds, or None if no suitable wait is known."""

    retry_after: float | None = None


class _Refused(ResilienceError):
    """The call was rejected by a breaker, or denied by a limit. The last of ``args`` is ``retry_after``."""

    retry_after: float

    def waiting(self, seconds: float) -> Self:
        """Set ``retry_after`` to ``seconds`` and return this error."""
        self.retry_after = seconds
        self.args = (*self.args[:-1], seconds)
        return self


class CircuitBreakerError(_Refused):
    """The breaker ``breaker_name`` rejected the call.

    Attributes:
        breaker_name: the name of the breaker.
        state: ``"open"``; ``"half_open"`` when all probes are taken; ``"slow_start"`` when the breaker closed recently.
        retry_after: seconds until the breaker may permit a call.
        failure_count: the number of consecutive failures, as the store counts them.
        last_failure_time: the time of the last failure, in seconds since the epoch on the store's clock; or None.
        next_attempt_time: the time of the next probe, in seconds since the epoch on the store's clock; or None.
        recovery_time: seconds from the opening of the breaker to its next probe. If the breaker is not open, the last
            interval of the backoff.
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
    """A limit is reached, so the call was denied.

    The message names the limiter, and leaves out ``key``, which may identify a person.

    Attributes:
        key: the key that the limits count the call by.
        limit, remaining: the size of the limit that denied the call, and the units left in that limit. If several
            limits denied the call, these are the values of the limit with the fewest units left.
        retry_after: seconds until asking again makes sense: the longest wait of all limits.
        reset_after: seconds until no limit counts any unit as used.
        denied_by: the index of the limit with the longest wait.
        reservation_kept: whether the reservation that the call redeems is still held.
        until_released: whether the call waits for another call to end, because a concurrency limit denied it.
            ``retry_after`` is then the time at which that call's lease ends, if the call does not end before.
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
        until_released: bool = False,
    ) -> None:
        super().__init__(name or key, retry_after)
        self.key = key
        self.retry_after = retry_after
        self.limit = limit
        self.remaining = remaining
        self.reset_after = reset_after
        self.denied_by = denied_by
        self.reservation_kept = reservation_kept
        self.until_released = until_released

    def __str__(self) -> str:
        return f"{self.args[0]!r} limited, retry in {_seconds(self.retry_after)}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self})"


class BackendError(ResilienceError):
    """The store did not answer in time, or could not carry out the request.

    ``__cause__`` is the driver's error, if there is one.

    Attributes:
        is_outage: whether this error means that the store is unavailable. If False, only this request failed, for
            example because the caller's transaction is broken. The store may answer the next request.
    """

    is_outage = True

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BackendContention(BackendError):
    """Other requests prevented this request from being carried out in time, although the store is available.

    The other requests held locks that this request needs, or too many requests came at once. ``retry_after`` is the
    time in seconds that this request was allowed to take.
    """

    is_outage = False


class ConfigurationError(ResilienceError, ValueError):
    """An option is wrong. The message names the option and says what to write instead."""


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
