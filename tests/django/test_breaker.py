"""Circuit breakers on views of all kinds, and limits beside them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory
from django.utils.decorators import method_decorator
from django.views.generic import View

from ratelimit_core import CircuitBreaker, CircuitBreakerError
from ratelimit_core.backends import MemoryBackend
from ratelimit_core.circuit_breaker import circuit_breaker
from ratelimit_core.django.decorators import rate_limit

OPTIONS: dict[str, Any] = {"failure_threshold": 2, "recovery_timeout": 60}


def function(ran: list[str]) -> Any:
    @circuit_breaker("function", **OPTIONS)
    def view(request: HttpRequest) -> HttpResponse:
        ran.append("function")
        raise ConnectionError

    return view


def coroutine(ran: list[str]) -> Any:
    @circuit_breaker("coroutine", **OPTIONS)
    async def view(request: HttpRequest) -> HttpResponse:
        ran.append("coroutine")
        raise ConnectionError

    return view


def class_based(ran: list[str]) -> Any:
    @method_decorator(circuit_breaker("class", **OPTIONS), name="dispatch")
    class Page(View):
        def get(self, request: HttpRequest) -> HttpResponse:
            ran.append("class")
            raise ConnectionError

    return Page.as_view()


def asynchronous_class(ran: list[str]) -> Any:
    @method_decorator(circuit_breaker("asynchronous class", **OPTIONS), name="dispatch")
    class Page(View):
        async def get(self, request: HttpRequest) -> HttpResponse:
            ran.append("asynchronous class")
            raise ConnectionError

    return Page.as_view()


def call(view: Any, request: HttpRequest) -> HttpResponse:
    answer = view(request)
    response: HttpResponse = asyncio.run(answer) if asyncio.iscoroutine(answer) else answer
    return response


@pytest.mark.parametrize("make", [function, coroutine, class_based, asynchronous_class])
def test_it_opens_and_the_view_is_left_alone(requests: RequestFactory, make: Any) -> None:
    ran: list[str] = []
    view = make(ran)
    for _ in range(2):
        with pytest.raises(ConnectionError):
            call(view, requests.get("/"))
    for _ in range(3):
        with pytest.raises(CircuitBreakerError) as caught:
            call(view, requests.get("/"))
    assert len(ran) == 2
    assert 59 < caught.value.retry_after <= 60


def test_a_fallback_may_answer_for_an_asynchronous_class(requests: RequestFactory) -> None:
    """What Django awaits has to be awaitable, refused or not, and whether the answer was awaited or is at hand."""

    def cached(*_: Any) -> HttpResponse:
        return HttpResponse("cached")

    @method_decorator(circuit_breaker("falls back", fallback_function=cached), name="dispatch")
    class Page(View):
        async def get(self, request: HttpRequest) -> HttpResponse:
            return HttpResponse("fresh")

    class AtOnce(Page):
        def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
            return HttpResponse("log in first")

    def answer(view: Any) -> bytes:
        response = view(requests.get("/"))
        assert asyncio.iscoroutine(response)
        found: HttpResponse = asyncio.run(response)
        return found.content

    assert answer(Page.as_view()) == b"fresh"
    assert answer(circuit_breaker("around at once")(AtOnce.as_view())) == b"log in first"
    CircuitBreaker("falls back").force_open()
    assert answer(Page.as_view()) == b"cached"


def test_a_refused_request_says_nothing_about_the_breaker_behind_the_limit(
    requests: RequestFactory, backend: MemoryBackend
) -> None:
    @rate_limit("ip", "1/m", backend=backend)
    @circuit_breaker("behind", **OPTIONS)
    def view(request: HttpRequest) -> HttpResponse:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        view(requests.get("/"))
    assert [view(requests.get("/")).status_code for _ in range(5)] == [429] * 5
    assert CircuitBreaker("behind").get_status()["failure_count"] == 1
