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
    "@rate_limit limits views, which get a request; for a Celery task use @rate_limited_task of resilient_tasks, and "
    "for anything else a Limiter: `with Limiter('10/s', key='supplier'): ...`"
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
    """Limit how often a view is called, for each ``key``, in all processes that share the backend.

    As in::

        @rate_limit("user", "10/s;1000/h")
        def search(request): ...

    A request over the limit is answered by ``429`` with ``Retry-After`` and does not reach the view; it costs nothing
    of the limit. Every response tells of the limits that were asked, and of the one with the least left among all
    decorators of the view: see :mod:`~ratelimit_core.django.limits.headers`. It decorates functions, methods, what
    ``as_view()`` returns, and is good for ``method_decorator``; an asynchronous view does not block its event loop.

    Functions that are given here get the request that the view gets, are plain ones for asynchronous views too, and
    may be asked twice there. What they raise is the view's own error; only for ``key`` see below. Requests pass
    unlimited where ``RATELIMIT_ENABLE`` is False.

    Cost: one round trip, none for a denial that is known, one more for a ``concurrency``. A view that raises has used
    its request all the same, and has run once.

    Args:
        key: whose the request is: ``"ip"``, ``"user"``, ``"header:X-Api-Key"``, a function, ...: see
            :mod:`~ratelimit_core.django.limits.keys`, also for what a function may return.
        rate: one or several, as ``"10/s;1000/h"``; or a function of the request that returns that, or None for a
            request that is not limited. A different rate has counters of its own. Nonsense is logged once, and such
            requests pass (with ``on_store_failure="deny"``: get ``503``).
        block: False lets the request pass and tells the view by ``request.rate_limit_exceeded``.
        backend: another one than the configured, by name or as an object.
        skip_if: a function of the request: true for one that is not limited.
        algorithm: as for :class:`~ratelimit_core.Limiter`; the setting ``RATELIMIT_ALGORITHM`` by default.
        algorithm_config: ``{"burst": 20}`` for a token bucket.
        response_callback: a function of ``(request)`` or ``(request, refusal)`` that makes the response in place of
            ``RATELIMIT_RESPONSE_HANDLER``; see :class:`~ratelimit_core.django.limits.responses.Refusal`.
        cost: how much a request takes, or a function of it, where 0 is free and nonsense is logged once and counts as
            1. More than the limit is refused for good: ``429`` without ``Retry-After``.
        shadow: decide and tell (log and signals), but refuse nothing and show nothing to the client.
        allow_list: addresses and networks that are not limited, or a function of the request. It comes first.
        deny_list: the same, for who gets ``403`` at once.
        concurrency: how many requests of one key may run at a time; a streaming response runs until it is closed.
        timeout: a place to run is free again after so many seconds, if its process died.
        on_store_failure: while the store is unavailable: ``"local"`` counts in this process, ``"allow"`` lets requests
            pass, ``"deny"`` answers ``503`` with ``Retry-After``. By default
            ``RATELIMIT_ON_STORE_FAILURE``.
        scope: what the counters belong to. By default the dotted name of the view (of a method: its class and name),
            so that no two views share a count; views with one scope, rate and key share theirs.

    Raises:
        ConfigurationError: where the decorator runs, for an option that is wrong, or where it decorates no view; and
            where it is called without a request, if only then it shows.
    """
    limit = ViewLimit(
        key, rate, block, backend, skip_if, algorithm, algorithm_config, response_callback, cost, shadow,
        allow_list, deny_list, concurrency, timeout, on_store_failure,
    )  # fmt: skip
    if scope == "":
        raise ConfigurationError("scope='' should name what the counters belong to, or be left out")

    def decorate(view: V) -> V:
        limited: V = _limited(limit, view, scope)
        return limited

    return decorate


ratelimit = rate_limit
aratelimit = rate_limit


class Target(NamedTuple):
    """What is limited: its counters' scope, who sends its signals, and whether its response has to be awaited."""

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
            if args and isinstance(args[0], HttpRequest):  # as most are called
                request, (counted, sender, asynchronous) = args[0], target
            else:
                request, (counted, sender, asynchronous) = found(args, kwargs)
            return (arun if asynchronous else run)(limit, view, request, counted, sender, args, kwargs)

        limited = limited_sync
    limited.limiter = limit.limiter(target.scope)
    return limited


def _refuse_what_is_no_view(view: Any) -> None:
    if hasattr(view, "apply_async") or not callable(view):
        raise ConfigurationError(f"{view!r} is no view. {_NO_VIEW}")
    if isinstance(view, type):
        raise ConfigurationError(
            f"{view.__qualname__} is a class: write @method_decorator(rate_limit(...), name='dispatch'), or use "
            "RateLimitMixin"
        )
    code = getattr(view, "__code__", None)
    if code is not None and not code.co_argcount and not code.co_flags & inspect.CO_VARARGS:
        raise ConfigurationError(f"{view.__qualname__}() takes no request. {_NO_VIEW}")


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
