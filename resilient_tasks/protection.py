"""What protects one task: its breaker, its limits, and what happens when they say no."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, get_args

from ratelimit_core.backoff import Backoff
from ratelimit_core.circuit_breaker import CircuitBreaker
from ratelimit_core.errors import ConfigurationError
from ratelimit_core.guard import Guard, Leave
from ratelimit_core.limiter import Limiter
from ratelimit_core.limits import Algorithm, Decision
from ratelimit_core.rates import Rate, parse_rates
from ratelimit_core.templates import Template

from .settings import ENABLED

logger = logging.getLogger("resilient_tasks")

OnOpen = Literal["defer", "fail", "skip"]
RateKey = str | Callable[..., str] | None

_DAY = 86400.0


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a protected task, beside those of its breaker and those of Celery. Times in seconds.

    Attributes:
        breaker: the breaker's name; by default the task's.
        rate, algorithm, burst: limits, as in :class:`~ratelimit_core.Limiter`.
        rate_key: what the limit is counted by: a template over the task's arguments such as
            ``"{tenant_id}"``, or a function of them. By default the breaker's name.
        concurrency: how many may run at a time, in the whole fleet.
        cost: what one run costs of each rate.
        on_open: what to do while the breaker is open: ``"defer"``, ``"fail"``, ``"skip"`` (succeed with
            ``skip_result``) or a function that is called in place of the task, with its arguments.
        retry_for: exceptions after which to try again, up to ``max_retries`` times, as ``backoff`` says.
        max_wait: a task that has waited so long, all waits together, fails.
        max_deferrals: a task that was put off so often fails; None for no bound.
        release_rate: how fast tasks that waited for a breaker come back; by default its fastest rate, else
            ``100/s``.
    """

    breaker: str | None = None
    rate: str | Rate | list[str | Rate] | None = None
    rate_key: RateKey = None
    algorithm: Algorithm = "sliding_window"
    burst: int | None = None
    concurrency: int | None = None
    cost: int = 1
    on_open: OnOpen | Callable[..., Any] = "defer"
    skip_result: Any = None
    retry_for: tuple[type[Exception], ...] = ()
    backoff: Backoff = field(default_factory=Backoff)
    max_wait: float = _DAY
    max_deferrals: int | None = None
    release_rate: str | Rate | None = None

    def __post_init__(self) -> None:
        if not callable(self.on_open) and self.on_open not in get_args(OnOpen):
            known = ", ".join(map(repr, get_args(OnOpen)))
            raise ConfigurationError(f"on_open={self.on_open!r} should be one of {known} or a function")
        if not self.max_wait > 0:
            raise ConfigurationError(f"max_wait={self.max_wait!r} should be seconds, more than 0")
        if self.max_deferrals is not None and (type(self.max_deferrals) is not int or self.max_deferrals < 0):
            raise ConfigurationError(f"max_deferrals={self.max_deferrals!r} should be a whole number or None")
        if not isinstance(self.backoff, Backoff):
            raise ConfigurationError(f"backoff={self.backoff!r} should be a Backoff, as in Backoff(base=1, max=300)")
        retry_for: Any = self.retry_for
        if not (isinstance(retry_for, tuple | list) and all(map(_is_exception_class, retry_for))):
            raise ConfigurationError(
                f"retry_for={self.retry_for!r} should be a tuple of exception classes, as in (ConnectionError,)"
            )


def _is_exception_class(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Exception)


TASK_OPTIONS = tuple(Options.__dataclass_fields__)


class Protection:
    """Made where the decorator runs, so that wrong options are refused there.

    Args:
        name: the task's name.
        signature: of the function, without ``self``.
        options: as in :class:`Options`.
        breaker_options: as in :class:`~ratelimit_core.CircuitBreakerConfig`; None for no breaker.
        longest_run: after so many seconds a run is taken for dead, and its place is free again.
    """

    def __init__(
        self,
        name: str,
        signature: inspect.Signature,
        options: Options,
        breaker_options: Mapping[str, Any] | None,
        longest_run: float = 300.0,
    ) -> None:
        self.options = options
        self.breaker: CircuitBreaker | None = None
        if breaker_options is not None:
            self.breaker = CircuitBreaker(options.breaker or name, **breaker_options)
        key = options.breaker or name
        self.limiter: Limiter | None = None
        if options.rate is not None or options.concurrency is not None:
            self.limiter = Limiter(
                options.rate,
                key=key,
                algorithm=options.algorithm,
                burst=options.burst,
                concurrency=options.concurrency,
                timeout=longest_run,
                when_down="closed",  # a task can wait
            )
            self.limiter.calls(key, options.cost, "")  # a cost beyond a limit is refused here
        self.guard = Guard(self.breaker, self.limiter)
        self.release = Limiter(self._release_rate(), key=f"release:{key}", algorithm="leaky_bucket")
        self._key = key
        self._rate_key = (
            Template(options.rate_key, signature, "rate_key") if isinstance(options.rate_key, str) else None
        )

    def _release_rate(self) -> Rate | str:
        if self.options.release_rate is not None:
            return self.options.release_rate
        if self.options.rate is None:
            return "100/s"
        rate = self.options.rate
        return min(parse_rates(rate), key=lambda each: each.spacing_us)

    def acquire(self, args: Any, kwargs: Any, slot: Decision | None) -> Leave:
        """Leave to run once. See :meth:`Guard.acquire`."""
        if not ENABLED:
            return _UNGUARDED.acquire()
        if not self.release.store.shared:
            _warn_that_memory_is_not_shared()
        return self.guard.acquire(key=self.key(args, kwargs), cost=self.options.cost, slot=slot)

    def key(self, args: Any, kwargs: Any) -> str | None:
        """The limits' key for a call with these arguments."""
        if self.limiter is None:
            return None
        if callable(self.options.rate_key):
            return f"{self._key}:{self.options.rate_key(*args, **kwargs)}"
        if self._rate_key is None:
            return None
        return f"{self._key}:{self._rate_key.render(args, kwargs)}"


@cache
def _warn_that_memory_is_not_shared() -> None:
    logger.warning(
        "resilience state is kept in memory, which worker processes do not share: set app.conf.resilience_backend "
        "to a redis:// URL"
    )


_UNGUARDED = Guard(None, None)
