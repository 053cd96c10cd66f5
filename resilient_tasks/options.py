"""The options of a protected task. They are checked when the task is defined."""

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
    """The options of a protected task, besides those of its breaker and those of Celery. Times are in seconds.

    Attributes:
        breaker: the name of the breaker; by default the name of the task. A template over the task's arguments, such
            as ``"payments:{tenant_id}"``, gives each tenant its own breaker.
        rate, algorithm, burst: limits, as in :class:`~ratelimit_core.Limiter`.
        rate_key: the key by which limits are counted: a template over the task's arguments, such as
            ``"{tenant_id}"``, or a function of the arguments. By default, limits are counted by the breaker's name.
        concurrency: the maximum number of runs at a time in the whole fleet. A run holds a lease for at most its hard
            time limit. Without a time limit, the lease lasts five minutes, and the worker renews it (except
            in a solo pool).
        cost: the units of each rate that one run takes: a number, or a function of the task's arguments.
        on_open: what a run does while the breaker is open. ``"defer"``: publish the task again for later.
            ``"pause"``: pause the task's queue, so that messages stay in the broker. ``"fail"``: fail with the error.
            ``"skip"``: succeed with ``skip_result``. A function: call it in place of the task, with the task's
            arguments.
        skip_result: the result of a task that is skipped, or that ``coalesce`` ends.
        on_publish_while_open: what ``delay()`` and ``apply_async()`` do while the breaker is open, outside of tasks:
            ``"allow"``, ``"raise"``, or a function that is called with the task's arguments and returns the result.
            Retries and deferrals are always allowed.
        retry_for: the exceptions after which the task is retried, up to ``max_retries`` times.
        backoff: the waits between these retries.
        max_wait: the maximum of all waits of a task together. A task that would have to wait longer fails.
        max_deferrals: the maximum number of deferrals of a task. A task that would have to be deferred again fails.
            None: no maximum.
        max_deferred_in_worker: the number of deferred tasks at which a worker pauses their queue. The worker resumes
            the queue when it holds fewer than 80 % of this number.
        dead_letter: a queue for tasks that gave up waiting. ``celery resilience replay`` brings them back.
        coalesce: whether only one of several calls with the same arguments waits. The others end at once, with
            ``skip_result``. Use this for tasks that Celery beat sends.
        resume_rate: how fast tasks that waited for a breaker resume. By default this is the task's fastest ``rate``. It
            is ``100/s`` if the task has no rate, or if the rate is counted by ``rate_key``.
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
        max_wait: Any = self.max_wait  # users may pass another type than the annotation says
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
            raise ConfigurationError(f"max_deferrals={self.max_deferrals!r} should be None or a whole number from 0 on")
        if type(self.max_deferred_in_worker) is not int or self.max_deferred_in_worker < 1:
            raise ConfigurationError(
                f"max_deferred_in_worker={self.max_deferred_in_worker!r} should be a whole number, 1 or more"
            )
        for option, name in zip(("breaker", "dead_letter"), names, strict=True):
            if name is not None and not (isinstance(name, str) and name):
                raise ConfigurationError(f"{option}={name!r} should be a name, as in {option}='payments'")
        if self.on_open == "pause" and is_template(self.breaker or ""):
            raise ConfigurationError(
                f"on_open='pause' with breaker={self.breaker!r}: a queue can't be paused for one of many breakers; "
                "write on_open='defer'"
            )
        if not (self.rate_key is None or isinstance(self.rate_key, str) or callable(self.rate_key)):
            raise ConfigurationError(
                f"rate_key={self.rate_key!r} should be a template such as '{{tenant_id}}', or a function"
            )
        if not callable(self.cost) and (type(self.cost) is not int or self.cost < 1):
            raise ConfigurationError(f"cost={self.cost!r} should be a whole number, 1 or more, or a function")
        for option in ("burst", "rate_key") if self.rate is None else ():
            if getattr(self, option) is not None and (option == "burst" or self.concurrency is None):
                needed = "a rate" if option == "burst" else "a rate or a concurrency"
                value = getattr(self, option)
                raise ConfigurationError(f"{option}={value!r} needs {needed}; add one, as in rate='10/s'")
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
    """Return the signature of a bound function, without its first parameter."""
    parameters = list(signature.parameters.values())
    if parameters and parameters[0].kind is not inspect.Parameter.VAR_POSITIONAL:
        parameters = parameters[1:]
    return signature.replace(parameters=parameters)
