"""``@rate_limit`` on asynchronous views: the same promises, and the event loop goes on."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.exceptions import SynchronousOnlyOperation
from django.http import HttpRequest, HttpResponse
from django.test import AsyncRequestFactory
from django.utils.asyncio import async_unsafe

from ratelimit_core.backends import MemoryBackend, RedisBackend
from ratelimit_core.django.decorators import rate_limit
from ratelimit_core.django.signals import rate_limit_denied
from tests.servers import PATIENT

requests = AsyncRequestFactory()


@async_unsafe
def ask_database() -> str:
    """What an ORM call does in an event loop: it refuses."""
    return "acme"


async def statuses(view: Any, n: int, path: str = "/") -> list[int]:
    return [(await view(requests.get(path))).status_code for _ in range(n)]


async def page(request: HttpRequest) -> HttpResponse:
    return HttpResponse("ok")


def test_it_limits_and_shows(backend: MemoryBackend) -> None:
    view = rate_limit("ip", "2/m", backend=backend)(page)
    assert asyncio.iscoroutinefunction(view)

    async def scenario() -> None:
        assert await statuses(view, 3) == [200, 200, 429]
        response = await view(requests.get("/"))
        assert response.headers["Retry-After"] == "60"
        assert response.headers["RateLimit"] == '"2-per-60s";r=0;t=60'

    asyncio.run(scenario())


def test_each_request_may_have_a_loop_of_its_own(valkey_url: str) -> None:
    """As under WSGI, where Django makes one for each request of an asynchronous view."""
    backend = RedisBackend(valkey_url, key_prefix="test-django-loops", **PATIENT)
    view = rate_limit("ip", "2/m", concurrency=2, backend=backend)(page)
    try:
        assert [asyncio.run(statuses(view, 1))[0] for _ in range(4)] == [200, 200, 429, 429]
        view.limiter.reset(key=f"{view.limiter.key}:ip:127.0.0.1")  # type: ignore[attr-defined] # for inspection
        assert asyncio.run(statuses(view, 3)) == [200, 200, 429]
    finally:
        backend.clear()
        backend.close()


def test_functions_that_ask_the_database_run_in_a_thread(backend: MemoryBackend) -> None:
    with pytest.raises(SynchronousOnlyOperation):
        asyncio.run(call_in_loop())

    class User:
        is_authenticated = True

        @property
        def pk(self) -> str:
            return ask_database()

    everywhere: list[dict[str, Any]] = [
        {"key": lambda request: ask_database()},
        {"key": "user"},
        {"key": "ip", "cost": lambda request: len(ask_database()) - 3},
        {"key": "ip", "rate": lambda request: "1/m" if ask_database() else None},
        {"key": "ip", "skip_if": lambda request: not ask_database()},
        {"key": "ip", "response_callback": lambda request: HttpResponse(ask_database(), status=429)},
    ]
    for options in everywhere:
        view = rate_limit(**{"rate": "1/m", "backend": backend, "scope": repr(options), **options})(page)

        async def scenario(view: Any = view) -> list[int]:
            found = []
            for _ in range(2):
                request: Any = requests.get("/")
                request.user = User()
                found.append((await view(request)).status_code)
            return found

        assert asyncio.run(scenario()) == [200, 429]


async def call_in_loop() -> str:
    return ask_database()


def test_a_view_that_raises_has_run_once_and_frees_its_place() -> None:
    ran = []

    @rate_limit("ip", "3/m", concurrency=1, backend=MemoryBackend())
    async def view(request: HttpRequest) -> HttpResponse:
        ran.append(request)
        raise LookupError("its own")

    async def scenario() -> None:
        for _ in range(3):
            with pytest.raises(LookupError, match="its own"):
                await view(requests.get("/"))

    asyncio.run(scenario())
    assert len(ran) == 3


def test_cancelled_it_frees_its_place() -> None:
    started = asyncio.Event()

    @rate_limit("ip", concurrency=1, backend=MemoryBackend())
    async def view(request: HttpRequest) -> HttpResponse:
        if request.path == "/hang":
            started.set()
            await asyncio.Event().wait()
        return HttpResponse("ok")

    async def scenario() -> None:
        hanging = asyncio.ensure_future(view(requests.get("/hang")))
        await started.wait()
        assert await statuses(view, 1) == [429]
        hanging.cancel()
        with pytest.raises(asyncio.CancelledError):
            await hanging
        assert await statuses(view, 2) == [200, 200]

    asyncio.run(scenario())


def test_receivers_that_are_coroutine_functions_are_heard(backend: MemoryBackend) -> None:
    heard = []

    async def denied(key: str, **_: Any) -> None:
        await asyncio.sleep(0)
        heard.append(key)

    rate_limit_denied.connect(denied)
    try:
        asyncio.run(statuses(rate_limit("ip", "1/m", backend=backend, scope="s")(page), 2))
    finally:
        rate_limit_denied.disconnect(denied)
    assert heard == ["s:ip:127.0.0.1"]


def test_block_false_and_the_user(backend: MemoryBackend) -> None:
    seen = []

    @rate_limit("user", "1/m", block=False, backend=backend)
    async def view(request: Any) -> HttpResponse:
        seen.append(request.rate_limit_exceeded)
        return HttpResponse("ok")

    async def scenario() -> None:
        for pk in (1, 1, 2):
            request: Any = requests.get("/")
            request.user = SimpleNamespace(is_authenticated=True, pk=pk)
            await view(request)

    asyncio.run(scenario())
    assert seen == [False, True, False]
