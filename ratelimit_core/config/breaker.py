"""The settings of a circuit breaker, checked where they are written."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, get_args

from .._util.clock import LONGEST, SECOND, microseconds
from .._util.suggest import not_one_of, unknown_option
from ..errors import ConfigurationError
from .schema import OnStoreFailure

Exceptions = type[BaseException] | tuple[type[BaseException], ...]


@dataclass(frozen=True, slots=True)
class CircuitBreakerConfig:
    """The settings of a breaker. Times are in seconds.

    Attributes:
        name: what the breaker is called, in the whole fleet.
        failure_threshold: it opens after so many consecutive failures.
        recovery_timeout: how long it stays open the first time.
        reset_timeout: after so long closed, the wait begins at ``recovery_timeout`` again.
        half_open_max_calls: how many probes may run at a time, in the whole fleet.
        exponential_backoff_multiplier, exponential_backoff_max: how the wait grows from opening to opening,
            and up to where.
        success_threshold: how many probes have to succeed before it closes.
        probe_timeout: a probe's place is free again after so long, if its process died.
        failure_rate, slow_call_rate: fractions of the calls in ``window`` at which it opens too. With
            ``failure_threshold=1_000_000`` they alone count.
        slow_call_duration: from how long on a call is slow.
        minimum_calls, window: so many calls there have to be within so long, before a fraction of them counts.
        cache_ttl: for how long a process lets calls through on the store's last word. 0 asks every time.
        expected_exception: what counts as a failure.
        ignored_exceptions: what counts as nothing.
        success_exceptions: what counts as an answer (a 404, say).
        is_failure: called with a result, says whether that is a failure.
        fallback_function: called with the same arguments in place of a refused call.
        slow_start: for so long after it closed, calls are let through with a chance that rises from a tenth to one.
        shadow: decide and report, and refuse nothing.
        respect_retry_after: a failure that carries ``Retry-After`` opens the breaker for exactly that long.
        on_store_failure: what to do while the store is away: ``"local"``, ``"allow"`` (let all through) or
            ``"deny"`` (let none through).
    """

    name: str = ""
    failure_threshold: int = 5
    recovery_timeout: float = 60
    reset_timeout: float = 300
    half_open_max_calls: int = 1
    exponential_backoff_multiplier: float = 2.0
    exponential_backoff_max: float = 300
    success_threshold: int = 1
    probe_timeout: float = 60
    failure_rate: float | None = None
    slow_call_rate: float | None = None
    slow_call_duration: float | None = None
    minimum_calls: int = 10
    window: float = 60
    cache_ttl: float = 0.25
    expected_exception: Exceptions = Exception
    ignored_exceptions: Exceptions = ()
    success_exceptions: Exceptions = ()
    is_failure: Callable[[Any], bool] | None = None
    fallback_function: Callable[..., Any] | None = field(default=None, compare=False)
    slow_start: float = 0
    shadow: bool = False
    respect_retry_after: bool = False
    on_store_failure: OnStoreFailure = "local"

    def __post_init__(self) -> None:
        check_name(self.name)
        for name in ("failure_threshold", "half_open_max_calls", "success_threshold", "minimum_calls"):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= 1_000_000:
                raise self._wrong(name, "a whole number from 1 to 1,000,000")
        for name in ("recovery_timeout", "probe_timeout"):
            self._check_span(name, least=0.001)
        if not (_is_number(self.window) and 0.001 <= self.window <= 30 * 86400):
            raise self._wrong("window", "seconds, from 0.001 to 30 days")
        for name in ("reset_timeout", "exponential_backoff_max", "cache_ttl"):
            self._check_span(name, least=0)
        if not (_is_number(self.slow_start) and 0 <= self.slow_start <= 30 * 86400):
            raise self._wrong("slow_start", "seconds, from 0 to 30 days")
        if self.slow_call_duration is not None:
            self._check_span("slow_call_duration", least=0)
        for name in ("failure_rate", "slow_call_rate"):
            rate = getattr(self, name)
            if rate is not None and not (_is_number(rate) and 0.001 <= rate <= 1):
                raise self._wrong(name, "a fraction from 0.001 to 1")
        if (self.slow_call_rate is None) != (self.slow_call_duration is None):
            raise ConfigurationError(f"breaker {self.name!r}: slow_call_rate and slow_call_duration go together")
        multiplier = self.exponential_backoff_multiplier
        if not (_is_number(multiplier) and 1 <= multiplier <= 100):
            raise self._wrong("exponential_backoff_multiplier", "a number from 1 to 100")
        if max(self.recovery_timeout, self.exponential_backoff_max) * multiplier > 4_000_000:
            raise ConfigurationError(
                f"breaker {self.name!r}: exponential_backoff_max ({self.exponential_backoff_max}) times "
                f"exponential_backoff_multiplier ({multiplier}) should be at most 4,000,000 s (46 days)"
            )
        for name in ("expected_exception", "ignored_exceptions", "success_exceptions"):
            given = getattr(self, name)
            for error in given if isinstance(given, tuple) else (given,):
                if not (isinstance(error, type) and issubclass(error, BaseException)):
                    raise self._wrong(name, "an exception class or a tuple of them")
        for name in ("is_failure", "fallback_function"):
            function = getattr(self, name)
            if function is not None and not callable(function):
                raise self._wrong(name, "a function or None")
        for name in ("respect_retry_after", "shadow"):
            if not isinstance(getattr(self, name), bool):
                raise self._wrong(name, "True or False")
        if self.on_store_failure not in get_args(OnStoreFailure):
            raise not_one_of(
                f"breaker {self.name!r}: on_store_failure", self.on_store_failure, get_args(OnStoreFailure)
            )

    def _check_span(self, name: str, least: float) -> None:
        value = getattr(self, name)
        if not (_is_number(value) and least <= value <= LONGEST / SECOND):
            raise self._wrong(name, f"seconds, from {least:g} to 400 days")

    def _wrong(self, name: str, expected: str) -> ConfigurationError:
        return ConfigurationError(f"breaker {self.name!r}: {name}={getattr(self, name)!r} should be {expected}")

    def with_options(self, options: Mapping[str, Any]) -> CircuitBreakerConfig:
        """This configuration with some settings replaced.

        Raises:
            ConfigurationError: an unknown setting (the nearest right one is named) or a wrong value.
        """
        for name in options:
            if name not in OPTIONS:
                raise unknown_option(f"breaker {self.name!r}", name, OPTIONS)
        return replace(self, **options)

    def for_policy(self) -> tuple[int, ...]:
        """The configuration of the policy, in the order of its signature."""
        recovery, reset = microseconds(self.recovery_timeout), microseconds(self.reset_timeout)
        longest, probe = microseconds(self.exponential_backoff_max), microseconds(self.probe_timeout)
        counts_rates = self.failure_rate is not None or self.slow_call_rate is not None
        window = microseconds(self.window) if counts_rates else 0
        day = 24 * 3600 * SECOND
        keep = max(day, reset, recovery, longest, 2 * window, 2 * probe)
        waits = (
            self.failure_threshold,
            self.success_threshold,
            self.half_open_max_calls - 1,
            recovery,
            round(self.exponential_backoff_multiplier * 1000),
            longest,
            reset,
        )
        rates = (
            window,
            self.minimum_calls,
            round((self.failure_rate or 0) * 1000),
            round((self.slow_call_rate or 0) * 1000),
            microseconds(self.slow_start),
            int(self.shadow),
        )
        fingerprint = zlib.crc32(repr((waits, rates)).encode()) or 1  # how long a probe takes is each process's affair
        return *waits, probe, keep, *rates, fingerprint


def check_name(name: object) -> None:
    """Refuse what is no text; a number is a setting, written in the place of the name.

    Raises:
        ConfigurationError: it says what to write.
    """
    if not isinstance(name, str):
        hint = f"settings go by theirs, as in failure_threshold={name!r}" if _is_number(name) else "as in 'payments'"
        raise ConfigurationError(f"a breaker needs a name, which is a string and not {name!r}; {hint}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


OPTIONS = tuple(f.name for f in fields(CircuitBreakerConfig) if f.name != "name")
"""The names of the settings."""
