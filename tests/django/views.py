"""What the site answers."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.utils.decorators import method_decorator
from django.views.generic import View

from ratelimit_core import BackendError, CircuitBreaker, RateLimitExceeded
from ratelimit_core.backends import MemoryBackend, RedisBackend
from ratelimit_core.circuit_breaker import circuit_breaker
from ratelimit_core.django.decorators import rate_limit


def plain(request: HttpRequest) -> HttpResponse:
    return HttpResponse("ok")


async def plain_async(request: HttpRequest) -> HttpResponse:
    return HttpResponse("ok")


def broken(request: HttpRequest) -> HttpResponse:
    raise LookupError("the view's own")


def limited_inside(request: HttpRequest) -> HttpResponse:
    raise RateLimitExceeded("supplier", 41.2)


def store_away(request: HttpRequest) -> HttpResponse:
    raise BackendError("no answer", retry_after=None)


@circuit_breaker("upstream", failure_threshold=1, recovery_timeout=60, expected_exception=ConnectionError)
def guarded(request: HttpRequest) -> HttpResponse:
    raise ConnectionError("upstream")


@circuit_breaker("upstream-async", failure_threshold=1, recovery_timeout=60, expected_exception=ConnectionError)
async def guarded_async(request: HttpRequest) -> HttpResponse:
    raise ConnectionError("upstream")


@rate_limit("ip", "2/h")
def limited(request: HttpRequest) -> HttpResponse:
    return HttpResponse("ok")


@rate_limit("ip", "2/h")
def limited_and_broken(request: HttpRequest) -> HttpResponse:
    raise LookupError("the view's own")


@rate_limit("user", "2/h")
async def limited_async(request: HttpRequest) -> HttpResponse:
    return HttpResponse("ok")


STORE = RedisBackend(os.environ["SITE_STORE"]) if "SITE_STORE" in os.environ else MemoryBackend()


@rate_limit("user", "3/h", backend=STORE)
async def shared_async(request: HttpRequest) -> HttpResponse:
    return HttpResponse("ok")


@rate_limit("user", "3/h", backend=STORE)
def shared(request: HttpRequest) -> HttpResponse:
    return HttpResponse("ok")


LAST_MODIFIED = "Wed, 21 Oct 2015 07:28:00 GMT"


@rate_limit("ip", concurrency=1)
def streamed(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(iter([b"a"]), headers={"Last-Modified": LAST_MODIFIED})


@rate_limit("ip", concurrency=1)
async def streamed_async(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(iter([b"a"]), headers={"Last-Modified": LAST_MODIFIED})


class AsyncPage(View):
    async def get(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("ok")


@method_decorator(circuit_breaker("by method", backend=STORE, cache_ttl=0), name="dispatch")
class ByMethod(AsyncPage):
    pass


class ByHand(AsyncPage):
    @circuit_breaker("by hand", backend=STORE, cache_ttl=0)
    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return super().dispatch(request, *args, **kwargs)


by_call = CircuitBreaker("by call", backend=STORE, cache_ttl=0)


async def breaker_calls(request: HttpRequest) -> HttpResponse:
    return await by_call.call(plain_async, request)


class Ticker:
    """Measures for how long the event loop is held up at most."""

    def __init__(self) -> None:
        self.longest = 0.0
        self.task = asyncio.ensure_future(self.tick())

    async def tick(self) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.005)
            self.longest = max(self.longest, time.monotonic() - before - 0.005)


TICKERS: list[Ticker] = []


async def loop_lag(request: HttpRequest) -> JsonResponse:
    """In seconds, since this was asked for the first time."""
    if not TICKERS:
        TICKERS.append(Ticker())
    return JsonResponse({"lag": TICKERS[0].longest})


VIEWS: dict[str, Callable[..., Any]] = {
    "plain": plain,
    "api/plain": plain,
    "plain-async": plain_async,
    "broken": broken,
    "limited-inside": limited_inside,
    "store-away": store_away,
    "guarded": guarded,
    "guarded-async": guarded_async,
    "limited": limited,
    "limited-and-broken": limited_and_broken,
    "limited-async": limited_async,
    "shared": shared,
    "shared-async": shared_async,
    "streamed": streamed,
    "streamed-async": streamed_async,
    "breaker-by-method": ByMethod.as_view(),
    "breaker-by-hand": ByHand.as_view(),
    "breaker-around": circuit_breaker("around", backend=STORE, cache_ttl=0)(AsyncPage.as_view()),
    "breaker-calls": breaker_calls,
    "loop-lag": loop_lag,
}
