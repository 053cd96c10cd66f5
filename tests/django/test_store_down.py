"""Views while the store is away. It is a real address at which nobody listens."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory

from ratelimit_core.backends import RedisBackend
from ratelimit_core.django.decorators import rate_limit
from tests.servers import free_port


@pytest.fixture
def away() -> Iterator[RedisBackend]:
    backend = RedisBackend(f"redis://127.0.0.1:{free_port()}/0")
    yield backend
    backend.close()


def responses(view: Any, n: int) -> list[HttpResponse]:
    answers = [view(RequestFactory().get("/")) for _ in range(n)]
    return [asyncio.run(answer) if asyncio.iscoroutine(answer) else answer for answer in answers]


@pytest.fixture(params=["sync", "async"])
def page(request: pytest.FixtureRequest) -> Any:
    def sync(request: HttpRequest) -> HttpResponse:
        return HttpResponse("ok")

    async def asynchronous(request: HttpRequest) -> HttpResponse:
        return HttpResponse("ok")

    return sync if request.param == "sync" else asynchronous


def test_local_goes_on_with_what_this_process_counts(away: RedisBackend, page: Any) -> None:
    answers = responses(rate_limit("ip", "2/m", backend=away)(page), 3)
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[0].headers["X-RateLimit-Remaining"] == "1"


def test_open_lets_all_pass_and_tells_nothing(away: RedisBackend, page: Any) -> None:
    answers = responses(rate_limit("ip", "2/m", backend=away, on_store_failure="allow", concurrency=1)(page), 5)
    assert [answer.status_code for answer in answers] == [200] * 5
    assert "RateLimit" not in answers[-1].headers


def test_closed_is_503_and_says_when_the_store_is_asked_again(away: RedisBackend, page: Any) -> None:
    answers = responses(rate_limit("ip", "2/m", backend=away, on_store_failure="deny")(page), 2)
    assert [answer.status_code for answer in answers] == [503, 503]
    assert [answer.headers["Retry-After"] for answer in answers] == ["5", "5"]
    assert answers[0].content == b"Temporarily unavailable."
    assert "RateLimit" not in answers[-1].headers
