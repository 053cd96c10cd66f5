"""The options of a protected task, checked where they are written."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from ratelimit_core._util.suggest import did_you_mean, not_one_of
from ratelimit_core._util.templates import is_template
from ratelimit_core.backoff import Backoff
from ratelimit_core.errors import ConfigurationError
from ratelimit_core.limiter import Algorithm
from ratelimit_core.rates import Rate

OnOpen = Literal["defer", "pause", "fail", "skip"]
OnPublishWhileOpen = Literal["allow", "raise"]

_DAY = 86400.0


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a protected task, beside those of its breaker and those of Celery. Times in seconds.

    Attributes:
        breaker: the breaker's name; by default the task's. A template over the task's arguments, such as
            ``"payments:{tenant_id}"``, is one breaker for each tenant.
        rate, algorithm, burst: limits, as in :class:`~ratelimit_core.Limiter`.
        rate_key: what the limit is counted by: a template over the task's arguments such as
            ``"{tenant_id}"``, or a function of them. By default the breaker's name.
        concurrency: how many may run at a time, in the whole fleet. A run holds its place for its hard time limit
            at most; where it has none, for five minutes, which its worker renews (a solo pool can't).
        cost: what one run costs of each rate; a number, or a function of the task's arguments.
        on_open: what to do while the breaker is open: ``"defer"`` (publish the task again for later), ``"pause"``
            (leave the task's queue alone: what waits stays in the broker), ``"fail"``, ``"skip"`` (succeed with
            ``skip_result``) or a function that is called in place of the task, with its arguments.
        on_publish_while_open: what ``delay()`` and ``apply_async()`` do while the breaker is open, outside of tasks:
            ``"allow"``, ``"raise"``, or a function that is called with the task's arguments and whose answer is the
            result. Retries and deferrals are always allowed.
        retry_for: exceptions after which to try again, up to ``max_retries`` times, as ``backoff`` says.
        max_wait: a task that has waited so long, all waits together, fails.
        max_deferrals: a task that was put off so often fails; None for no bound.
        max_deferred_in_worker: a worker that holds so many waiting tasks stops consuming their queue until it holds
            fewer.
        dead_letter: a queue that a task which gave up waiting is published to. ``celery resilience replay`` brings
            it back.
        coalesce: of several waiting calls with the same arguments only the first waits; another one ends at once,
            with ``skip_result``. For tasks that beat sends.
        resume_rate: how fast tasks that waited for a breaker come back; by default its fastest rate, else
            ``100/s``, as where the rate is counted by ``rate_key``.
    """

    breaker: str | None = None
    rate: str | Rate | list[str | Rate] | None = None
    rate_key: str | Callable[..., Any] | None = None
    algorithm: Algorithm = "sliding_window"
    burst: int | None = None
    concurrency: int | None = None
    cost: int | Callable[..., int] = 1
    on_open: OnOpen | Callable[..., Any] = "defer"
    on_publish_while_open: OnPublishWhileOpen | Callable[..., Any] = "allow"
    skip_result: Any = None
    retry_for: tuple[type[Exception], ...] = ()
    backoff: Backoff = field(default_factory=Backoff)
    max_wait: float = _DAY
    max_deferrals: int | None = None
    max_deferred_in_worker: int = 1000
    dead_letter: str | None = None
    coalesce: bool = False
    resume_rate: str | Rate | None = None

    def __post_init__(self) -> None:
        max_wait: Any = self.max_wait  # whatever the types say, it is a user who wrote it
        names: tuple[Any, ...] = (self.breaker, self.dead_letter)
        for option, known in (("on_open", OnOpen), ("on_publish_while_open", OnPublishWhileOpen)):
            value = getattr(self, option)
            if not callable(value) and value not in get_args(known):
                expected = ", ".join(map(repr, get_args(known)))
                hint = did_you_mean(value, get_args(known))
                raise ConfigurationError(f"{option}={value!r} should be one of {expected} or a function{hint}")
        if not (isinstance(max_wait, int | float) and max_wait > 0):
            raise ConfigurationError(f"max_wait={self.max_wait!r} should be seconds, more than 0")
        if self.max_deferrals is not None and (type(self.max_deferrals) is not int or self.max_deferrals < 0):
            raise ConfigurationError(f"max_deferrals={self.max_deferrals!r} should be a whole number or None")
        if type(self.max_deferred_in_worker) is not int or self.max_deferred_in_worker < 1:
            raise ConfigurationError(
                f"max_deferred_in_worker={self.max_deferred_in_worker!r} should be a whole number, 1 or more"
            )
        for option, name in zip(("breaker", "dead_letter"), names, strict=True):
            if name is not None and not (isinstance(name, str) and name):
                raise ConfigurationError(f"{option}={name!r} should be a name, as in {option}='payments'")
        if self.on_open == "pause" and is_template(self.breaker or ""):
            raise ConfigurationError(
                f"on_open='pause' with breaker={self.breaker!r}: a queue can't be left alone for one of many breakers; "
                "write on_open='defer'"
            )
        if not (self.rate_key is None or isinstance(self.rate_key, str) or callable(self.rate_key)):
            raise ConfigurationError(f"rate_key={self.rate_key!r} should be a template or a function")
        if not callable(self.cost) and (type(self.cost) is not int or self.cost < 1):
            raise ConfigurationError(f"cost={self.cost!r} should be a whole number, 1 or more, or a function")
        for option in ("burst", "rate_key") if self.rate is None else ():
            if getattr(self, option) is not None and (option == "burst" or self.concurrency is None):
                raise ConfigurationError(f"{option}={getattr(self, option)!r} goes with a rate")
        if self.algorithm not in get_args(Algorithm):
            raise not_one_of("algorithm", self.algorithm, get_args(Algorithm))
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


def without_self(signature: inspect.Signature) -> inspect.Signature:
    """The signature of a bound function, as who calls it sees it."""
    parameters = list(signature.parameters.values())
    if parameters and parameters[0].kind is not inspect.Parameter.VAR_POSITIONAL:
        parameters = parameters[1:]
    return signature.replace(parameters=parameters)
