"""Call functions through a breaker: once, or at every call of a decorated function."""

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
"""What a call needs: the breaker's cache in this process, and the function to call if the breaker rejects the call."""


def call(target: Target, function: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
    """Call ``function`` and record the outcome. If the breaker rejects the call, call the fallback."""
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
    """Do as :func:`call` does, for a function whose result is awaited."""
    cache, fallback = target
    try:
        permit = await aacquire(cache)
    except CircuitBreakerError:
        if fallback is None:
            raise
        return await awaited(fallback(*args, **kwargs))
    return await settle_awaitable(permit, functools.partial(function, *args, **kwargs))


def _settle_result(permit: Permit, result: Any) -> Any:
    """Settle the permit with a result. If the result is a coroutine, return a coroutine that settles at its end."""
    if isinstance(result, CoroutineType):
        return settle_awaitable(permit, lambda: result)
    permit.record_result(result)
    return result


def reject_generators(breaker: str, function: Callable[..., Any]) -> None:
    """Check that ``function`` is no generator function, whose body has not run yet when a call returns.

    Raises:
        ConfigurationError: ``function`` is a generator function.
    """
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigurationError(
            f"breaker {breaker!r} can't guard the generator {function.__qualname__}(), because the generator's body "
            "runs after the call has returned; guard the functions that the body calls, or write "
            "`with CircuitBreaker(...):` around the loop over the generator"
        )


def wrap(function: Callable[P, R], resolve: Callable[[], Target]) -> Callable[P, R]:
    """Return a function that calls ``function`` through a breaker. ``resolve`` is not called before the first call."""
    if is_asynchronous(function):
        return cast(Callable[P, R], _wrap_asynchronous(function, resolve))
    if _may_be_view(function):
        return wrap_by_arguments(function, lambda args, kwargs: resolve())
    return _wrap_synchronous(function, resolve)


def wrap_by_arguments(function: Callable[P, R], pick: Callable[[Any, Any], Target]) -> Callable[P, R]:
    """Return a function that calls ``function`` through the breaker that ``pick`` returns for the call's arguments."""
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
    """Return whether ``function`` may be the ``dispatch`` method of a class-based view.

    That method is not a coroutine function, even if the view is asynchronous.
    """
    return getattr(function, "__name__", "") == "dispatch"


def _wrap_synchronous(function: Callable[P, R], resolve: Callable[[], Target]) -> Callable[P, R]:
    """Wrap a function, so that a call costs little while the breaker is known to be closed.

    Such a call, if it succeeds, is only counted: it needs no lock, no permit and no round trip. All other calls are
    made by :func:`call`.
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
    """Do as :func:`_wrap_synchronous` does, for a function whose result is awaited."""
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
        except GeneratorExit:  # a coroutine that is being closed must not await
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
