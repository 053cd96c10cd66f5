"""What goes wrong, in one small tree. Whatever says no also says when to ask again: ``retry_after``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Self

interruptions: set[type[Exception]] = set()
"""What handlers of signals raise in the middle of anything: it says nothing about whoever was at work there."""


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
        state: ``"open"``; ``"half_open"`` when all probes are taken; ``"ramping_up"`` when it has closed of late.
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


class RateLimited(_Refused):
    """A call was refused because a limit is reached. It says which; not whose call it was, since that may be a person.

    Attributes:
        key: what the call counted by.
        limit, remaining: of the limit that has the least left.
        retry_after: seconds until asking again makes sense, the largest over all limits asked.
        reset_after: seconds until all that was used is back.
        which: the limit that makes wait longest, by its place.
        keeps_slot: whether a reserved slot that was presented is still held.
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
        which: int = 0,
        keeps_slot: bool = False,
    ) -> None:
        super().__init__(name or key, retry_after)
        self.key = key
        self.retry_after = retry_after
        self.limit = limit
        self.remaining = remaining
        self.reset_after = reset_after
        self.which = which
        self.keeps_slot = keeps_slot

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


class BackendBusy(BackendError):
    """The store is there, but others held what this question needs for longer than it may take.

    It says nothing of the store, so nobody takes that for away; ``retry_after`` is what this question has waited.
    """

    away = False


class ConfigurationError(ResilienceError, ValueError):
    """An option is wrong. The message names it and says what to write instead."""


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"


def unknown_option(where: str, name: str, known: Iterable[str]) -> ConfigurationError:
    """The error for an option that does not exist, with the nearest one that does."""
    hint = did_you_mean(name, known) or f"; known are: {', '.join(sorted(known))}"
    return ConfigurationError(f"{where}: unknown option {name!r}{hint}")


def not_one_of(option: str, value: object, known: Iterable[str]) -> ConfigurationError:
    """The error for a value that is none of those that there are, with the nearest one."""
    listed = ", ".join(map(repr, known))
    return ConfigurationError(f"{option}={value!r} should be one of {listed}{did_you_mean(value, known)}")


def did_you_mean(given: object, known: Iterable[str]) -> str:
    """What an error about ``given`` ends with: the nearest of ``known``, or nothing."""
    near = nearest(given, known)
    return "" if near is None else f"; did you mean {near!r}?"


def nearest(given: object, known: Iterable[str], cutoff: float = 0.55) -> str | None:
    """Which of ``known`` was probably meant by ``given``, if any. Capitals are no difference."""
    import difflib

    if not isinstance(given, str):
        return None
    folded = {each.casefold(): each for each in known}
    near = difflib.get_close_matches(given.casefold(), folded, n=1, cutoff=cutoff)
    return folded[near[0]] if near else None


def missing_extra(module: str, extra: str, error: ImportError) -> ImportError:
    """Return ``error``, which kept ``module`` from being imported, with a message that says which extra to install."""
    message = f"{module} can't be imported: {error}. Install what it needs: pip install 'resilient-tasks[{extra}]'"
    return type(error)(message, name=error.name)


def mistyped_argument(error: Exception, known: Iterable[str]) -> str:
    """What to add to Python's own error for an argument that does not exist: the nearest of ``known``, or nothing."""
    found = re.search(r"unexpected keyword argument '(\w+)'\Z", str(error))  # from 3.13 on, it may know itself
    return did_you_mean(found[1], known) if found else ""
