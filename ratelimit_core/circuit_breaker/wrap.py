"""How a function is called through a breaker, once or, decorated, every time."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from inspect import isawaitable
from types import CoroutineType
from typing import Any, ParamSpec, TypeVar, cast

from .._util.aio import awaited
from .._util.callables import is_asynchronous, is_asynchronous_view
from ..errors import CircuitBreakerError, ConfigurationError
from .acquire import aacquire, acquire, permit_since
from .aio import settle, settle_awaitable
from .cache import BreakerCache
from .permit import Permit

P = ParamSpec("P")
R = TypeVar("R")
Fallback = Callable[..., Any] | None
Target = tuple[BreakerCache, Fallback]
"""What a call needs of its breaker: what this process knows of it, and what to call if it rejects."""


def call(target: Target, function: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
    """Call ``function`` and record the outcome. If the breaker rejects, call the fallback."""
    cache, fallback = target
    try:
        permit = acquire(cache)
    except CircuitBreakerError:
        if fallback is None:
            raise
        return fallback(*args, **kwargs)
    try:
        result = permit.run(function, *args, **kwargs)
    except BaseException as error:
        permit.record(error)
        raise
    return _settle_result(permit, result)


async def acall(target: Target, function: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
    """Do as :func:`call` does, of a function whose result is awaited."""
    cache, fallback = target
    try:
        permit = await aacquire(cache)
    except CircuitBreakerError:
        if fallback is None:
            raise
        return await awaited(fallback(*args, **kwargs))
    return await settle_awaitable(permit, functools.partial(function, *args, **kwargs))


def _settle_result(permit: Permit, result: Any) -> Any:
    """Settle by what a function returned. If that is a coroutine, return one that settles once it has ended."""
    if isinstance(result, CoroutineType):
        return settle_awaitable(permit, lambda: result)
    permit.record_result(result)
    return result


def reject_generators(breaker: str, function: Callable[..., Any]) -> None:
    """Refuse to guard a generator function, which has not run yet when it returns.

    Raises:
        ConfigurationError: it is one.
    """
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigurationError(
            f"breaker {breaker!r} can't record the generator {function.__qualname__}(), which runs only after it was "
            "called; guard what it calls, or its loop by `with CircuitBreaker(...):`"
        )


def wrap(function: Callable[P, R], resolve: Callable[[], Target]) -> Callable[P, R]:
    """Return ``function`` with a breaker before it; ``resolve`` is called at the first call."""
    if is_asynchronous(function):
        return cast(Callable[P, R], _wrap_asynchronous(function, resolve))
    if _may_be_view(function):
        return wrap_by_arguments(function, lambda args, kwargs: resolve())
    return _wrap_synchronous(function, resolve)


def wrap_by_arguments(function: Callable[P, R], pick: Callable[[Any, Any], Target]) -> Callable[P, R]:
    """Return ``function`` with a breaker before it that ``pick`` finds by the arguments of each call."""
    if is_asynchronous(function):

        @functools.wraps(function)
        async def guarded_async(*args: P.args, **kwargs: P.kwargs) -> Any:
            return await acall(pick(args, kwargs), function, args, kwargs)

        return cast(Callable[P, R], guarded_async)
    may_be_view = _may_be_view(function)

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        target = pick(args, kwargs)
        awaits = may_be_view and is_asynchronous_view(args[0] if args else None)
        result: Any = acall(target, function, args, kwargs) if awaits else call(target, function, args, kwargs)
        return cast(R, result)

    return guarded


def _may_be_view(function: Callable[..., Any]) -> bool:
    """Return whether it may be the ``dispatch`` of a class-based view, which an asynchronous one leaves synchronous."""
    return getattr(function, "__name__", "") == "dispatch"


def _wrap_synchronous(function: Callable[P, R], resolve: Callable[[], Target]) -> Callable[P, R]:
    """Wrap the most frequent case, which costs as little as it can while the breaker is known to be closed.

    A call that succeeds then takes no lock, no permit and no round trip: it is counted here. All else goes by
    :func:`call`.
    """
    target: Target | None = None

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        nonlocal target
        if target is None:
            target = resolve()
        cache = target[0]
        cached = cache.cached
        began_at = cache.clock()
        if began_at >= cached.fast_until:
            result: R = call(target, function, args, kwargs)
            return result
        try:
            result = function(*args, **kwargs)
        except BaseException as error:
            permit_since(cache, cached, began_at).record(error)
            raise
        if cache.cached is cached and type(result) is not CoroutineType:
            cache.successes += 1
            cache.last_success_at = cache.clock()
            cache.pending_successes += 1
            return result
        settled: R = _settle_result(permit_since(cache, cached, began_at), result)
        return settled

    return guarded


def _wrap_asynchronous(function: Callable[..., Any], resolve: Callable[[], Target]) -> Callable[..., Any]:
    """Do as :func:`_wrap_synchronous` does, of a function whose result is awaited."""
    target: Target | None = None

    @functools.wraps(function)
    async def guarded(*args: Any, **kwargs: Any) -> Any:
        nonlocal target
        if target is None:
            target = resolve()
        cache = target[0]
        cached = cache.cached
        began_at = cache.clock()
        if began_at >= cached.fast_until:
            return await acall(target, function, args, kwargs)
        try:
            result = function(*args, **kwargs)
            if isawaitable(result):
                result = await result
        except GeneratorExit:  # the coroutine is closed, and may not await
            raise
        except BaseException as error:
            permit = permit_since(cache, cached, began_at)
            await settle(permit, permit.record_steps(error))
            raise
        if cache.cached is cached:
            cache.successes += 1
            cache.last_success_at = cache.clock()
            cache.pending_successes += 1
        else:
            permit = permit_since(cache, cached, began_at)
            await settle(permit, permit.record_result_steps(result))
        return result

    return guarded
