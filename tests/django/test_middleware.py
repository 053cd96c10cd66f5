"""``ResilienceMiddleware``: the site's limits, and what the library's errors become."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import iscoroutinefunction
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client, RequestFactory

from ratelimit_core import ConfigurationError, RateLimitExceeded
from ratelimit_core.django.middleware import ResilienceMiddleware, SiteLimits
from tests.django.conftest import Configure

Site = Callable[..., Client]


def statuses(client: Client, path: str, n: int) -> list[int]:
    return [client.get(path).status_code for _ in range(n)]


def test_without_its_setting_it_asks_nothing(site: Site) -> None:
    response = site().get("/plain/")
    assert (response.status_code, response.content) == (200, b"ok")
    assert "RateLimit" not in response.headers


def test_it_limits_the_site(site: Site) -> None:
    client = site(RATELIMIT_MIDDLEWARE={"rate": "3/m", "skip_paths": ["/broken"], "rates": {"/api": "1/m"}})
    assert statuses(client, "/plain/", 2) == [200, 200]
    assert statuses(client, "/api/plain/", 2) == [200, 429]  # counted apart
    assert statuses(client, "/store-away/", 2) == [503, 429]  # with /plain/
    assert statuses(client, "/broken/", 3) == [500] * 3
    response = client.get("/plain/")
    assert response.headers["RateLimit-Policy"] == '"3-per-60s";q=3;w=60'
    assert 1 <= int(response.headers["Retry-After"]) <= 60


def test_of_the_paths_the_longest_that_fits_counts() -> None:
    factory = RequestFactory()
    limits = SiteLimits({"rate": "9/m", "rates": {"/api/": "5/m", "/api/free": None, "/": "7/m"}})

    def rate(path: str) -> tuple[int | None, str]:
        limit, scope = limits.of(factory.get(path))
        limiter = None if limit is None else limit.limiter(scope)
        return None if limiter is None else limiter.limits[0].allowance, scope

    assert rate("/api/") == (5, "middleware:/api/")
    assert rate("/api/users/1") == (5, "middleware:/api/")
    assert rate("/api") == (7, "middleware:/")
    assert rate("/apiary") == (7, "middleware:/")
    assert rate("/api/free") == (None, "middleware:/api/free")
    assert rate("/api/free/beer") == (None, "middleware:/api/free")
    assert rate("/api/freedom") == (5, "middleware:/api/")


def test_the_tightest_of_site_and_view_is_shown(site: Site) -> None:
    client = site(RATELIMIT_MIDDLEWARE={"rate": "100/m"})
    headers = client.get("/limited/", REMOTE_ADDR="192.0.2.33").headers
    assert headers["RateLimit"].startswith('"2-per-3600s";r=1;')
    assert headers["RateLimit-Policy"] == '"100-per-60s";q=100;w=60, "2-per-3600s";q=2;w=3600'


def test_a_view_that_raises_runs_once_and_its_response_tells_of_the_limit(site: Site) -> None:
    client = site(RATELIMIT_MIDDLEWARE={"rate": "2/m"})
    responses = [client.get("/broken/") for _ in range(3)]
    assert [response.status_code for response in responses] == [500, 500, 429]
    assert responses[0].headers["X-RateLimit-Remaining"] == "1"


@pytest.mark.parametrize(
    ("path", "status", "wait"),
    [("/limited-inside/", 429, {"42"}), ("/store-away/", 503, {"5"})],
)
def test_errors_of_the_library_become_answers(site: Site, path: str, status: int, wait: set[str]) -> None:
    response = site().get(path)
    assert response.status_code == status
    assert response.headers["Retry-After"] in wait
    assert response.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("path", ["/guarded/", "/guarded-async/"])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_open_breaker_is_503_with_retry_after(site: Site, path: str, asynchronous: bool) -> None:
    client = site()

    async def over_asgi() -> list[Any]:
        own = AsyncClient(raise_request_exception=False)
        return [await own.get(path) for _ in range(3)]

    responses = asyncio.run(over_asgi()) if asynchronous else [client.get(path) for _ in range(3)]
    assert responses[-1].status_code == 503
    assert 55 <= int(responses[-1].headers["Retry-After"]) <= 60


def test_a_decorated_view_that_raises_tells_of_its_limit(site: Site) -> None:
    response = site().get("/limited-and-broken/", REMOTE_ADDR="192.0.2.34")
    assert (response.status_code, response.headers["X-RateLimit-Remaining"]) == (500, "1")


def test_other_errors_stay_what_they_are(site: Site) -> None:
    assert site().get("/broken/").status_code == 500


def describe(request: HttpRequest, error: Exception) -> HttpResponse | None:
    return HttpResponse(repr(error), status=418) if isinstance(error, RateLimitExceeded) else None


def test_the_exception_handler_of_the_settings_is_asked_first(site: Site) -> None:
    client = site(RATELIMIT_EXCEPTION_HANDLER=f"{__name__}.describe")
    response = client.get("/limited-inside/")
    assert (response.status_code, response.headers["Retry-After"]) == (418, "42")
    assert b"supplier" in response.content
    assert client.get("/store-away/").status_code == 503


def test_in_an_event_loop_it_awaits(configured: Configure, site: Site) -> None:
    site(RATELIMIT_MIDDLEWARE={"rate": "2/m", "key": "const:site"})

    async def scenario() -> None:
        client = AsyncClient()
        assert [(await client.get("/plain-async/")).status_code for _ in range(3)] == [200, 200, 429]

    asyncio.run(scenario())


def test_it_is_of_the_kind_of_what_it_stands_before() -> None:
    """Else Django would put a thread between the two, for every request."""

    async def get_response(request: HttpRequest) -> HttpResponse:
        return HttpResponse()

    assert iscoroutinefunction(ResilienceMiddleware(get_response))
    assert not iscoroutinefunction(ResilienceMiddleware(lambda request: HttpResponse()))


def test_enable_false_turns_it_off(site: Site) -> None:
    client = site(RATELIMIT_MIDDLEWARE={"rate": "1/m"}, RATELIMIT_ENABLE=False)
    assert statuses(client, "/plain/", 3) == [200] * 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rte": "1/m"}, "did you mean 'rate'"),
        ({"rate": "often"}, "'often' is not a rate"),
        ({"rate": "1/m", "key": "usr"}, "did you mean 'user'"),
        ({"rates": ["1/m"]}, r"rates=\['1/m'\] should be a dictionary"),
        ({"rates": {"/a": "often"}}, "'often' is not a rate"),
        ({"rates": {"api": "1/m"}}, "'api' should be a path"),
        ({"skip_paths": "/health/"}, "skip_paths='/health/' should be a list"),
        ({"rate": "1/m", "algorithm": "best"}, "algorithm='best' should be one of"),
    ],
)
def test_wrong_options_are_errors_when_django_makes_it(
    configured: Configure, options: dict[str, Any], message: str
) -> None:
    configured(RATELIMIT_MIDDLEWARE=options)
    with pytest.raises(ConfigurationError, match=message):
        ResilienceMiddleware(lambda request: HttpResponse())
