"""The decorators ``@breaker_task`` and ``@rate_limited_task``: ``@shared_task`` with a breaker and limits."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from inspect import getattr_static
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar, overload

from celery import Task, shared_task
from celery.utils.imports import symbol_by_name

from ratelimit_core._util.suggest import unknown_option
from ratelimit_core.config.breaker import OPTIONS as BREAKER_OPTIONS
from ratelimit_core.errors import ConfigurationError

from .installation import with_protection
from .options import TASK_OPTIONS, Options, without_self
from .protection import Protection
from .settings import current_app

P = ParamSpec("P")
R = TypeVar("R")

# Celery takes these options besides the attributes of Task.
_CELERY_OPTIONS = frozenset(
    "name base bind shared filter lazy pydantic pydantic_strict pydantic_context pydantic_dump_kwargs queue "
    "routing_key exchange exchange_type priority delivery_mode compression immediate mandatory autoretry_for "
    "dont_autoretry_for retry_kwargs retry_backoff retry_backoff_max retry_jitter".split()
)
_HOOKS = frozenset("before_start on_success on_failure on_retry after_return Request Strategy".split())
_LIMIT_OPTIONS = frozenset(TASK_OPTIONS) - {"breaker", "on_open", "on_publish_while_open", "resume_rate"}


@overload
def breaker_task(function: Callable[P, R], /) -> Task[P, R]: ...
@overload
def breaker_task(
    *, bind: Literal[True], **options: Any
) -> Callable[[Callable[Concatenate[Any, P], R]], Task[P, R]]: ...
@overload
def breaker_task(**options: Any) -> Callable[[Callable[P, R]], Task[P, R]]: ...
def breaker_task(*args: Any, **options: Any) -> Any:
    """Make a task that is protected by a circuit breaker, and by limits if they are given.

    The decorator takes every option of ``@shared_task``, of :class:`~resilient_tasks.options.Options` and of
    :class:`~ratelimit_core.CircuitBreakerConfig` except ``fallback_function``::

        @breaker_task(breaker="payments", failure_threshold=3, rate="10/s;5000/h", retry_for=(ConnectionError,))
        def charge(order_id): ...

    While the breaker is open the task waits, unless ``on_open`` says otherwise. A task that waits keeps its id, and the
    wait uses up none of its retries.

    Without limits, a run costs as much as a call through a :class:`~ratelimit_core.CircuitBreaker`. With limits, asking
    them and the breaker together costs one round trip, and reporting the outcome costs as much as without limits. A
    concurrency limit costs at most one more, to release its slot.

    Raises:
        ConfigurationError: when the decorator runs, for an unknown option or a wrong value.
    """
    return _decorator("breaker_task", args, options, frozenset(TASK_OPTIONS), frozenset(BREAKER_OPTIONS))


@overload
def rate_limited_task(
    *, bind: Literal[True], **options: Any
) -> Callable[[Callable[Concatenate[Any, P], R]], Task[P, R]]: ...
@overload
def rate_limited_task(**options: Any) -> Callable[[Callable[P, R]], Task[P, R]]: ...
def rate_limited_task(*args: Any, **options: Any) -> Any:
    """Make a task that is protected by limits alone: ``rate``, ``concurrency`` or both.

    If a limit is reached, the task reserves the next free time and waits for it. The wait uses up none of its retries.

    A run that need not wait costs one round trip, and one more to release the slot of a concurrency limit.

    Raises:
        ConfigurationError: when the decorator runs, for an unknown option or a wrong value.
    """
    if options.get("rate") is None and options.get("concurrency") is None:
        raise ConfigurationError("rate_limited_task needs a rate, as in rate='10/s', or a concurrency")
    return _decorator("rate_limited_task", args, options, _LIMIT_OPTIONS, None)


def _decorator(
    where: str,
    args: tuple[Any, ...],
    options: dict[str, Any],
    ours: frozenset[str],
    breakers: frozenset[str] | None,
) -> Any:
    if len(args) == 1 and callable(args[0]) and not options:
        return _decorator(where, (), {}, ours, breakers)(args[0])
    if args:
        raise ConfigurationError(f"@{where} takes options only by name, as in @{where}(rate='10/s')")
    base = options.pop("base", None) or _task_class()
    known = ours | (breakers or frozenset()) | _CELERY_OPTIONS | _attributes(base)
    for option in options:
        if option not in known:
            raise unknown_option(f"@{where}", option, known)
    task_options = Options(**{name: options.pop(name) for name in list(options) if name in ours})
    breaker_options = None
    if breakers is not None:
        breaker_options = {name: options.pop(name) for name in list(options) if name in breakers}

    def decorate(function: Callable[..., Any]) -> Any:
        name = options.get("name") or f"{function.__module__}.{function.__name__}"
        signature = inspect.signature(function)
        if options.get("bind"):
            signature = without_self(signature)
        resilience = Protection(name, signature, task_options, breaker_options, options.get("time_limit"))
        make: Any = shared_task(base=with_protection(base), resilience=resilience, **options)
        return make(function)

    return decorate


def _task_class() -> type[Task[..., Any]]:
    """Return the base class of the app's tasks. With Django, Celery's own class can publish after the commit."""
    app: Any = current_app()
    task_class: type[Task[..., Any]] = Task if app is None else symbol_by_name(app.task_cls)
    return task_class


def _attributes(base: type) -> frozenset[str]:
    """Return the options that ``base`` adds: its attributes and Celery's hooks, but no other method."""
    data = (name for name in dir(base) if not callable(getattr_static(base, name)))
    return frozenset(name for name in data if not name.startswith("_")) | _HOOKS
