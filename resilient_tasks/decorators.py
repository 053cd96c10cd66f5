"""``@breaker_task`` and ``@rate_limited_task``: ``@shared_task`` with more."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar, overload

from celery import Task, shared_task
from celery.utils.imports import symbol_by_name

from ratelimit_core.breaker_config import OPTIONS as BREAKER_OPTIONS
from ratelimit_core.circuit_breaker import circuit_breaker_registry
from ratelimit_core.errors import ConfigurationError, unknown_option

from .protection import TASK_OPTIONS, Options, Protection
from .settings import current_app
from .task import ResilientTask

P = ParamSpec("P")
R = TypeVar("R")

# What Celery takes besides the attributes of Task.
_CELERY_OPTIONS = frozenset(
    "name base bind shared filter lazy pydantic pydantic_strict pydantic_context pydantic_dump_kwargs queue "
    "routing_key exchange exchange_type priority delivery_mode compression immediate mandatory autoretry_for "
    "dont_autoretry_for retry_kwargs retry_backoff retry_backoff_max retry_jitter".split()
)
_LIMIT_OPTIONS = frozenset(TASK_OPTIONS) - {"breaker", "on_open", "skip_result", "release_rate"}


@overload
def breaker_task(function: Callable[P, R], /) -> Task[P, R]: ...
@overload
def breaker_task(
    *, bind: Literal[True], **options: Any
) -> Callable[[Callable[Concatenate[Any, P], R]], Task[P, R]]: ...
@overload
def breaker_task(**options: Any) -> Callable[[Callable[P, R]], Task[P, R]]: ...
def breaker_task(*args: Any, **options: Any) -> Any:
    """Make a task that a circuit breaker, and limits if you like, stand before.

    Takes every option of ``@shared_task``, of :class:`~resilient_tasks.protection.Options` and of
    :class:`~ratelimit_core.CircuitBreakerConfig`::

        @breaker_task(breaker="payments", failure_threshold=3, rate="10/s;5000/h", retry_for=(ConnectionError,))
        def charge(order_id): ...

    While the breaker is open the task waits, as the same task, and spends no retry on it.

    Cost of a run: no round trip while the breaker is closed and there are no limits; one for limits, which
    carries the breaker's question too.

    Raises:
        ConfigurationError: where the decorator runs, for an unknown option or a wrong value.
    """
    return _decorator("breaker_task", args, options, frozenset(TASK_OPTIONS), frozenset(BREAKER_OPTIONS))


@overload
def rate_limited_task(
    *, bind: Literal[True], **options: Any
) -> Callable[[Callable[Concatenate[Any, P], R]], Task[P, R]]: ...
@overload
def rate_limited_task(**options: Any) -> Callable[[Callable[P, R]], Task[P, R]]: ...
def rate_limited_task(*args: Any, **options: Any) -> Any:
    """Make a task that limits alone stand before: ``rate``, ``concurrency`` or both.

    A run that finds a limit reached reserves the next slot and waits for it, and spends no retry on it.
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
        raise ConfigurationError(f"@{where} takes keyword options only, as in @{where}(rate='10/s')")
    base = options.pop("base", None) or _task_class()
    known = ours | (breakers or frozenset()) | _CELERY_OPTIONS
    for option in options:
        if option not in known and not hasattr(base, option):
            raise unknown_option(f"@{where}", option, known | _public(base))
    task_options = Options(**{name: options.pop(name) for name in list(options) if name in ours})
    breaker_options = None
    if breakers is not None:
        breaker_options = {name: options.pop(name) for name in list(options) if name in breakers}

    def decorate(function: Callable[..., Any]) -> Any:
        name = options.get("name") or f"{function.__module__}.{function.__name__}"
        signature = inspect.signature(function)
        if options.get("bind"):
            signature = signature.replace(parameters=list(signature.parameters.values())[1:])
        longest_run = options.get("time_limit") or 300.0
        if breaker_options and "probe_timeout" not in breaker_options:
            breaker_options.update(_probe_timeout(task_options.breaker or name, options.get("time_limit")))
        resilience = Protection(name, signature, task_options, breaker_options, longest_run)
        make: Any = shared_task(base=_with_protection(base), resilience=resilience, **options)
        return make(function)

    return decorate


def _probe_timeout(breaker: str, time_limit: float | None) -> dict[str, float]:
    """A prober is dead by its hard time limit; of several tasks, the one that defines the breaker says."""
    defined = circuit_breaker_registry.get(breaker)
    timeout = time_limit if defined is None else defined.options.get("probe_timeout")
    return {} if timeout is None else {"probe_timeout": timeout}


def _task_class() -> type[Task[..., Any]]:
    """What tasks of the app derive from: its own class, or Celery's for Django, which waits for commits."""
    app: Any = current_app()
    task_class: type[Task[..., Any]] = Task if app is None else symbol_by_name(app.task_cls)
    return task_class


def _with_protection(base: type[Task[..., Any]]) -> type[Task[..., Any]]:
    """``ResilientTask``, before whatever base class the user named."""
    if issubclass(base, ResilientTask):
        return base
    if base is Task:
        return ResilientTask
    return type(f"Resilient{base.__name__}", (ResilientTask, base), {"abstract": True})


def _public(base: type) -> frozenset[str]:
    return frozenset(name for name in dir(base) if not name.startswith("_"))
