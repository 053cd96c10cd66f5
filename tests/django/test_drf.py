"""Throttles of Django REST framework."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from django.http import HttpResponse
from django.utils.decorators import method_decorator
from rest_framework.decorators import api_view, throttle_classes
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.test import APIRequestFactory, force_authenticate
from rest_framework.views import APIView

from ratelimit_core import ConfigurationError
from ratelimit_core.backends import MemoryBackend, RedisBackend
from ratelimit_core.django import drf
from ratelimit_core.django.checks import check_throttles
from ratelimit_core.django.decorators import rate_limit
from ratelimit_core.django.middleware import ResilienceMiddleware
from ratelimit_core.testing import ManualClock
from tests.django.conftest import Configure
from tests.servers import free_port

requests = APIRequestFactory()
RATES = {"anon": "2/m", "user": "3/m", "uploads": "1/m", "free": None}


@pytest.fixture
def page(backend: MemoryBackend, configured: Configure) -> Any:
    """A view behind a throttle of the kind that is named, on the store of the test."""
    configured(REST_FRAMEWORK={"DEFAULT_THROTTLE_RATES": RATES})

    def page(kind: type[drf.RateThrottle], **attributes: Any) -> Any:
        throttle = type("Throttle", (kind,), {"options": {"backend": backend}, **attributes})

        class Page(APIView):
            throttle_classes = [throttle]  # noqa: RUF012 - as people write it
            throttle_scope = attributes.get("throttle_scope")

            def get(self, request: Request) -> Response:
                return Response("ok")

        return Page.as_view()

    return page


def ask(view: Any, n: int = 1, user: Any = None, **extra: Any) -> list[Any]:
    responses = []
    for _ in range(n):
        request = requests.get("/", **extra)
        if user is not None:
            force_authenticate(request, user)
        responses.append(view(request))
    return responses


def statuses(*args: Any, **kwargs: Any) -> list[int]:
    return [response.status_code for response in ask(*args, **kwargs)]


ALICE = SimpleNamespace(is_authenticated=True, pk=1)
BOB = SimpleNamespace(is_authenticated=True, pk=2)


def test_anon(page: Any) -> None:
    view = page(drf.AnonRateThrottle)
    assert statuses(view, 3) == [200, 200, 429]
    assert statuses(view, 3, REMOTE_ADDR="192.0.2.1") == [200, 200, 429]
    assert statuses(view, 5, ALICE) == [200] * 5


def test_user(page: Any) -> None:
    view = page(drf.UserRateThrottle)
    assert statuses(view, 4, ALICE) == [200, 200, 200, 429]
    assert statuses(view, 1, BOB) == [200]
    assert statuses(view, 4) == [200, 200, 200, 429]


def test_scoped(page: Any) -> None:
    uploads = page(drf.ScopedRateThrottle, throttle_scope="uploads")
    assert statuses(uploads, 2, ALICE) == [200, 429]
    assert statuses(page(drf.ScopedRateThrottle), 3, ALICE) == [200] * 3
    assert statuses(page(drf.ScopedRateThrottle, throttle_scope="free"), 3, ALICE) == [200] * 3


def test_it_says_how_long_to_wait_and_a_denied_request_costs_nothing(page: Any, clock: ManualClock) -> None:
    view = page(drf.AnonRateThrottle, rate="2/s;3/m")
    refused = ask(view, 20)[-1]
    assert refused.headers["Retry-After"] == "1"
    clock.advance(1)
    assert statuses(view, 2) == [200, 429]
    assert ask(view)[0].headers["Retry-After"] == "59"


def test_the_address_does_not_come_from_a_header(page: Any) -> None:
    view = page(drf.AnonRateThrottle)
    codes = [statuses(view, 1, HTTP_X_FORWARDED_FOR=f"192.0.2.{i}")[0] for i in range(3)]
    assert codes == [200, 200, 429]


def test_enable_false_and_a_user_that_is_none(page: Any, configured: Configure) -> None:
    view = page(drf.AnonRateThrottle)
    configured(RATELIMIT_ENABLE=False)
    assert statuses(view, 3) == [200] * 3
    configured(RATELIMIT_ENABLE=True, REST_FRAMEWORK={"DEFAULT_THROTTLE_RATES": RATES, "UNAUTHENTICATED_USER": None})
    assert statuses(view, 3) == [200, 200, 429]


def test_with_the_middleware_responses_tell_of_the_throttle(page: Any) -> None:
    view = ResilienceMiddleware(page(drf.AnonRateThrottle))
    assert [response.headers["RateLimit"].partition(";t=")[0] for response in ask(view, 3)] == [
        f'"2-per-60s";r={left}' for left in (1, 0, 0)
    ]


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"scope": "nothing"}, "DEFAULT_THROTTLE_RATES has no rate for 'nothing'"),
        ({"rate": "often"}, "'often' is not a rate"),
        ({"options": {"concurrency": 3}}, "does not see requests end"),
    ],
)
def test_wrong_rates_are_errors_that_name_them(page: Any, attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ask(page(drf.AnonRateThrottle, **attributes))


def test_the_decorator_works_on_its_views_too(backend: MemoryBackend) -> None:
    seen = []

    class Page(APIView):
        @rate_limit("user", "1/m", backend=backend)
        def get(self, request: Request) -> Response:
            seen.append((request.user.pk, request.rate_limit_exceeded))  # type: ignore[attr-defined] # set by the limit
            return Response("ok")

    @method_decorator(rate_limit("ip", "1/m", backend=backend), name="dispatch")
    class Outer(APIView):
        def get(self, request: Request) -> Response:
            return Response("ok")

    @api_view(["GET"])
    @throttle_classes([])
    @rate_limit("ip", "1/m", backend=backend)
    def function(request: Request) -> HttpResponse:
        return HttpResponse("ok")

    assert statuses(Page.as_view(), 2, ALICE) == [200, 429]
    assert statuses(Page.as_view(), 1, BOB) == [200]
    assert seen == [(1, False), (2, False)]
    assert statuses(Outer.as_view(), 2) == [200, 429]
    assert statuses(function, 2) == [200, 429]


def test_a_rate_without_a_scope_counts_for_its_class(page: Any) -> None:
    """Each class for itself."""

    def everybody(self: Any, request: Request) -> str:
        return "everybody"

    first, second = (page(drf.RateThrottle, rate="2/m", key=everybody, __qualname__=name) for name in ("One", "Two"))
    assert statuses(first, 3) == [200, 200, 429]
    assert statuses(second, 3) == [200, 200, 429]
    with pytest.raises(ConfigurationError, match=r"'tests\.django\.test_drf\.Three'.*a scope, or a rate of its own"):
        ask(page(drf.RateThrottle, key=everybody, __qualname__="Three", __module__="tests.django.test_drf"))


def test_who_is_on_the_deny_list_gets_403(page: Any, backend: MemoryBackend) -> None:
    view = page(drf.UserRateThrottle, options={"backend": backend, "deny_list": ["192.0.2.0/24"]})
    assert statuses(view, 2, REMOTE_ADDR="192.0.2.1") == [403, 403]
    assert statuses(view, 1) == [200]


def test_closed_is_503_while_the_store_is_away(page: Any) -> None:
    away = RedisBackend(f"redis://127.0.0.1:{free_port()}/0")
    view = page(drf.UserRateThrottle, options={"backend": away, "on_store_failure": "deny"})
    responses = ask(view, 2)
    assert [(each.status_code, each.headers["Retry-After"]) for each in responses] == [(503, "5")] * 2
    away.close()


@pytest.mark.parametrize(
    ("framework", "words"),
    [
        ({"DEFAULT_THROTTLE_RATES": {"user": "10/fortnight"}}, ["DEFAULT_THROTTLE_RATES['user']", "10/fortnight"]),
        (
            {
                "DEFAULT_THROTTLE_RATES": {"usr": "10/m"},
                "DEFAULT_THROTTLE_CLASSES": ["ratelimit_core.django.drf.UserRateThrottle"],
            },
            ["no rate for 'user'", "did you mean 'usr'?"],
        ),
        ({"DEFAULT_THROTTLE_CLASSES": ["ratelimit_core.django.drf.UsrRateThrottle"]}, ["UsrRateThrottle"]),
    ],
)
def test_wrong_rates_are_found_by_the_checks(configured: Configure, framework: Any, words: list[str]) -> None:
    configured(REST_FRAMEWORK=framework)
    (found,) = check_throttles(None)
    assert found.id == "ratelimit.E008"
    assert all(word in found.msg for word in words), found.msg


def test_right_rates_are_not(configured: Configure) -> None:
    configured(
        REST_FRAMEWORK={
            "DEFAULT_THROTTLE_RATES": RATES | {"burst": "10/s;1000/h"},
            "DEFAULT_THROTTLE_CLASSES": [
                "ratelimit_core.django.drf.AnonRateThrottle",
                "ratelimit_core.django.drf.ScopedRateThrottle",
            ],
        }
    )
    assert check_throttles(None) == []
