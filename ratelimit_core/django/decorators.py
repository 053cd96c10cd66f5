"""``@rate_limit`` on views: functions and methods, synchronous and asynchronous."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from asgiref.sync import iscoroutinefunction
from django.http import HttpRequest

from .._util.callables import bound_method
from ..backends.base import Backend
from ..config.schema import OnStoreFailure
from ..errors import ConfigurationError
from ..limiter import Algorithm
from .limits.enforcement import arun, run
from .limits.view_limit import Listed, Rates, ViewLimit

V = TypeVar("V", bound=Callable[..., Any])

_NO_VIEW = (
    "@rate_limit limits views, which take a request. For a Celery task use @rate_limited_task of resilient_tasks; for "
    "anything else use a Limiter: `with Limiter('10/s', key='supplier'): ...`"
)


def rate_limit(
    key: str | Callable[..., object],
    rate: Rates | Callable[[HttpRequest], Rates | None] | None = None,
    block: bool = True,
    *,
    backend: Backend | str | None = None,
    skip_if: Callable[[HttpRequest], object] | None = None,
    algorithm: Algorithm | None = None,
    algorithm_config: Mapping[str, Any] | None = None,
    response_callback: Callable[..., Any] | None = None,
    cost: int | Callable[[HttpRequest], int] = 1,
    shadow: bool = False,
    allow_list: Listed | None = None,
    deny_list: Listed | None = None,
    concurrency: int | None = None,
    timeout: float = 60.0,
    on_store_failure: OnStoreFailure | None = None,
    scope: str | None = None,
) -> Callable[[V], V]:
    """Limit how often a view is called for each ``key``, in all processes that share the backend.

    For example::

        @rate_limit("user", "10/s;1000/h")
        def search(request): ...

    A request over the limit is answered with ``429`` and ``Retry-After``. It does not reach the view, and it is not
    counted. Headers of every response show the limits that were asked: see
    :mod:`~ratelimit_core.django.limits.headers`. The decorator takes functions, methods and the result of
    ``as_view()``, and works with ``method_decorator``. It does not block the event loop of an asynchronous view.

    Functions that are passed as options receive the request of the view. They must be plain functions, also for an
    asynchronous view, for which they may be called twice. Their exceptions are passed on, except those of ``key``:
    see :mod:`~ratelimit_core.django.limits.keys`. If ``RATELIMIT_ENABLE`` is False, no request is limited.

    A request costs one round trip, and one more with ``concurrency``. A repeated denial costs none while this process
    knows the wait. A request counts even if the view raises. The view runs at most once.

    Args:
        key: what to count requests by, such as ``"ip"``, ``"user"``, ``"header:X-Api-Key"`` or a function. See
            :mod:`~ratelimit_core.django.limits.keys`.
        rate: one or several rates, such as ``"10/s;1000/h"``, or a function of the request that returns them. If the
            function returns None, no rate applies. Each rate has its own counters. A wrong value from a function is
            logged once. Such requests pass, or get ``503`` with ``on_store_failure="deny"``.
        block: False lets requests over the limit pass, and sets ``request.rate_limit_exceeded`` for the view.
        backend: the backend, by name or as an object. The default is the configured one.
        skip_if: a function of the request. If it returns a true value, the request is not limited.
        algorithm: as for :class:`~ratelimit_core.Limiter`. The default is ``RATELIMIT_ALGORITHM``.
        algorithm_config: options of the algorithm: ``{"burst": 20}`` for a token bucket.
        response_callback: a function of ``(request)`` or ``(request, refusal)`` that makes the response instead of
            ``RATELIMIT_RESPONSE_HANDLER``; see :class:`~ratelimit_core.django.limits.responses.Refusal`.
        cost: the cost of a request, or a function of the request, which may return 0 for a free one. A wrong value from
            a function is logged once and counts as 1. A cost above the limit gets ``429`` without ``Retry-After``.
        shadow: decide and report (log and signals), but deny nothing and show nothing to the client.
        allow_list: addresses and networks that are not limited, or a function of the request. It is checked before
            ``deny_list``.
        deny_list: addresses and networks whose requests get ``403`` at once, or a function of the request.
        concurrency: the maximum number of requests of one key that run at a time. A streaming response counts until it
            is closed.
        timeout: the seconds after which the lease of a running request ends, even if the request still runs. The lease
            of a request whose process died ends then too.
        on_store_failure: while the store is unavailable, ``"local"`` counts in this process, ``"allow"`` lets requests
            pass, and ``"deny"`` answers ``503`` with ``Retry-After``. The default is ``RATELIMIT_ON_STORE_FAILURE``.
        scope: the name of the counters. The default is the dotted name of the view, or of the class and the method, so
            that two views never share counters. Views with the same scope, rate, algorithm and key share counters.

    Raises:
        ConfigurationError: an option is wrong, or the decorated object is not a view. Also raised by a call of the view
            without a request.
    """
    limit = ViewLimit(
        key, rate, block, backend, skip_if, algorithm, algorithm_config, response_callback, cost, shadow,
        allow_list, deny_list, concurrency, timeout, on_store_failure,
    )  # fmt: skip
    if scope == "":
        raise ConfigurationError(
            "scope='' should be a name for the counters, as in 'search'; by default it is the view's name"
        )

    def decorate(view: V) -> V:
        limited: V = _limited(limit, view, scope)
        return limited

    return decorate


ratelimit = rate_limit
aratelimit = rate_limit


class Target(NamedTuple):
    """A limited view: the scope of the counters, the sender of the signals, and whether the response is awaited."""

    scope: str
    sender: Any
    asynchronous: bool


def _limited(limit: ViewLimit, view: Any, scope: str | None) -> Any:
    _refuse_what_is_no_view(view)
    method = bound_method(view)
    if method is not None:
        target = _of_method(type(method.__self__), method.__name__, scope)
    else:
        target = Target(scope or _dotted(view), view, False)
    of_class: dict[type, Target] = {}

    def found(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Target]:
        if args and _is_request(args[0]):
            return args[0], target
        if len(args) > 1 and _is_request(args[1]):
            owner = type(args[0])
            if owner not in of_class:
                of_class[owner] = _of_method(owner, view.__name__, scope)
            return args[1], of_class[owner]
        if _is_request(kwargs.get("request")):
            return kwargs["request"], target
        raise ConfigurationError(f"{target.scope}() was called without a request. {_NO_VIEW}")

    if iscoroutinefunction(view):

        @functools.wraps(view)
        async def limited_async(*args: Any, **kwargs: Any) -> Any:
            request, (counted, sender, _) = found(args, kwargs)
            return await arun(limit, view, request, counted, sender, args, kwargs)

        limited: Any = limited_async
    else:

        @functools.wraps(view)
        def limited_sync(*args: Any, **kwargs: Any) -> Any:
            if args and isinstance(args[0], HttpRequest):  # the most frequent way to call a view
                request, (counted, sender, asynchronous) = args[0], target
            else:
                request, (counted, sender, asynchronous) = found(args, kwargs)
            return (arun if asynchronous else run)(limit, view, request, counted, sender, args, kwargs)

        limited = limited_sync
    limited.limiter = limit.limiter(target.scope)
    return limited


def _refuse_what_is_no_view(view: Any) -> None:
    if hasattr(view, "apply_async") or not callable(view):
        raise ConfigurationError(f"{view!r} is not a view. {_NO_VIEW}")
    if isinstance(view, type):
        raise ConfigurationError(
            f"{view.__qualname__} is a class: write @method_decorator(rate_limit(...), name='dispatch'), or use "
            "RateLimitMixin"
        )
    code = getattr(view, "__code__", None)
    if code is not None and not code.co_argcount and not code.co_flags & inspect.CO_VARARGS:
        raise ConfigurationError(f"{view.__qualname__}() takes no argument, so it is not a view. {_NO_VIEW}")


def _of_method(owner: type, name: str, scope: str | None) -> Target:
    asynchronous = bool(getattr(owner, "view_is_async", False))
    return Target(scope or f"{owner.__module__}.{owner.__qualname__}.{name}", owner, asynchronous)


def _dotted(view: Any) -> str:
    while isinstance(view, functools.partial):
        view = view.func
    named = getattr(view, "view_class", None) or (view if hasattr(view, "__qualname__") else type(view))
    name: str = named.__qualname__
    if name.endswith("<lambda>"):
        raise ConfigurationError("a lambda has no name for its counters: write @rate_limit(..., scope='search')")
    return f"{named.__module__}.{name}"


def _is_request(candidate: Any) -> bool:
    return isinstance(candidate, HttpRequest) or isinstance(getattr(candidate, "_request", None), HttpRequest)
