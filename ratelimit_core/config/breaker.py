"""The settings of a circuit breaker, which are checked when the breaker is defined."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, get_args

from .._util.clock import LONGEST, SECOND
from .._util.suggest import not_one_of, unknown_option
from ..errors import ConfigurationError
from .schema import OnStoreFailure

Exceptions = type[BaseException] | tuple[type[BaseException], ...]


@dataclass(frozen=True, slots=True)
class CircuitBreakerConfig:
    """The settings of a breaker. Times are in seconds.

    Attributes:
        name: the name of the breaker in the whole fleet.
        failure_threshold: the number of consecutive failures that open the breaker.
        recovery_timeout: how long the breaker stays open the first time.
        reset_timeout: how long the breaker has to stay closed until the next wait is ``recovery_timeout`` again.
        half_open_max_calls: the maximum number of probes that run at the same time in the whole fleet.
        exponential_backoff_multiplier: the factor by which the wait grows with each opening.
        exponential_backoff_max: the maximum to which the wait grows.
        success_threshold: the number of probes that have to succeed before the breaker closes.
        probe_timeout: the time after which a probe whose process died makes room for another probe.
        failure_rate, slow_call_rate: the fractions of failed and of slow calls in ``window`` that open the breaker too.
            With ``failure_threshold=1_000_000`` only these rates open the breaker.
        slow_call_duration: the shortest duration of a slow call.
        minimum_calls: the minimum number of calls in ``window`` for the rates to count.
        window: the time over which the rates are computed.
        cache_ttl: how long a process permits calls by its cached verdict. With 0, each call asks the store.
        expected_exception: exceptions that count as a failure.
        ignored_exceptions: exceptions that do not count.
        success_exceptions: exceptions that count as a success, such as an exception for HTTP's 404.
        is_failure: a function that takes the result of a call and returns whether the result counts as a failure.
        fallback_function: a function that is called with the arguments of a rejected call, in place of that call.
        slow_start: the time after closing in which the share of permitted calls rises from a tenth to all.
        shadow: whether the breaker only decides and reports, and rejects no call.
        respect_retry_after: whether a failure that carries ``Retry-After`` opens the breaker for exactly that time.
        on_store_failure: what to do while the store is unavailable: ``"local"`` (this process decides alone),
            ``"allow"`` (permit every call) or ``"deny"`` (reject every call).
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
            raise self._wrong("window", "seconds, from 0.001 to 2,592,000 (30 days)")
        for name in ("reset_timeout", "exponential_backoff_max", "cache_ttl"):
            self._check_span(name, least=0)
        if not (_is_number(self.slow_start) and 0 <= self.slow_start <= 30 * 86400):
            raise self._wrong("slow_start", "seconds, from 0 to 2,592,000 (30 days)")
        if self.slow_call_duration is not None:
            self._check_span("slow_call_duration", least=0)
        for name in ("failure_rate", "slow_call_rate"):
            rate = getattr(self, name)
            if rate is not None and not (_is_number(rate) and 0.001 <= rate <= 1):
                raise self._wrong(name, "a fraction from 0.001 to 1")
        if (self.slow_call_rate is None) != (self.slow_call_duration is None):
            raise ConfigurationError(
                f"breaker {self.name!r}: slow_call_rate and slow_call_duration go together: set both or neither"
            )
        multiplier = self.exponential_backoff_multiplier
        if not (_is_number(multiplier) and 1 <= multiplier <= 100):
            raise self._wrong("exponential_backoff_multiplier", "a number from 1 to 100")
        if max(self.recovery_timeout, self.exponential_backoff_max) * multiplier > 4_000_000:
            raise ConfigurationError(
                f"breaker {self.name!r}: recovery_timeout ({self.recovery_timeout}) and exponential_backoff_max "
                f"({self.exponential_backoff_max}), each multiplied by exponential_backoff_multiplier ({multiplier}), "
                "should be at most 4,000,000 s (46 days)"
            )
        for name in ("expected_exception", "ignored_exceptions", "success_exceptions"):
            given = getattr(self, name)
            for error in given if isinstance(given, tuple) else (given,):
                if not (isinstance(error, type) and issubclass(error, BaseException)):
                    raise self._wrong(name, "an exception class or a tuple of exception classes")
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
            raise self._wrong(name, f"seconds, from {least:g} to 34,560,000 (400 days)")

    def _wrong(self, name: str, expected: str) -> ConfigurationError:
        return ConfigurationError(f"breaker {self.name!r}: {name}={getattr(self, name)!r} should be {expected}")

    def with_options(self, options: Mapping[str, Any]) -> CircuitBreakerConfig:
        """Return this configuration with the settings in ``options`` replaced.

        Raises:
            ConfigurationError: a value is wrong, or a setting is unknown. For an unknown setting, the error suggests
                the nearest known setting.
        """
        for name in options:
            if name not in OPTIONS:
                raise unknown_option(f"breaker {self.name!r}", name, OPTIONS)
        return replace(self, **options)


def check_name(name: object) -> None:
    """Check that the name of a breaker is a string.

    Raises:
        ConfigurationError: the name is not a string. For a number, the error suggests a setting such as
            ``failure_threshold``.
    """
    if not isinstance(name, str):
        hint = (
            f"pass settings by name, as in failure_threshold={name!r}"
            if _is_number(name)
            else "write for example 'payments'"
        )
        raise ConfigurationError(f"the name of a breaker must be a string, not {name!r}; {hint}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


OPTIONS = tuple(f.name for f in fields(CircuitBreakerConfig) if f.name != "name")
"""The names of the settings, without ``name``."""
