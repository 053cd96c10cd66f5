"""``@rate_limit`` on class-based views, by method_decorator, on methods and around ``as_view()``; and the mixin."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory
from django.utils.decorators import method_decorator
from django.views.generic import TemplateView, View

from ratelimit_core import ConfigurationError
from ratelimit_core.backends import Backend, MemoryBackend
from ratelimit_core.django.decorators import rate_limit
from ratelimit_core.django.mixins import RateLimitMixin

STORE = MemoryBackend()
ONE = rate_limit("ip", "1/m", backend=STORE)


@pytest.fixture(autouse=True)
def _empty() -> None:
    STORE.clear()


class Plain(View):
    def get(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("ok")


class PlainAsync(View):
    async def get(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("ok")


@method_decorator(ONE, name="dispatch")
class Dispatched(Plain): ...


@method_decorator([ONE, rate_limit("const:all", "9/m", backend=STORE)], name="dispatch")
class DispatchedByTwo(Plain): ...


@method_decorator(ONE, name="get")
class Got(Plain): ...


class Method(View):
    @ONE
    def get(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("ok")


class Inherited(Method): ...


class MethodDecorated(View):
    @method_decorator(ONE)
    def get(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("ok")


class OwnDispatch(Plain):
    @ONE
    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return super().dispatch(request, *args, **kwargs)


class Mixed(RateLimitMixin, Plain):
    rate_limit = "1/m"
    rate_limit_key = "ip"
    rate_limit_options = {"backend": STORE}  # noqa: RUF012 - as people write it


class MixedToo(Mixed): ...


@method_decorator(ONE, name="dispatch")
class DispatchedAsync(PlainAsync): ...


@method_decorator(ONE, name="get")
class GotAsync(PlainAsync): ...


class MethodAsync(View):
    @ONE
    async def get(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("ok")


class OwnDispatchAsync(PlainAsync):
    @ONE
    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return super().dispatch(request, *args, **kwargs)


class MixedAsync(RateLimitMixin, PlainAsync):
    rate_limit = "1/m"
    rate_limit_options = {"backend": STORE}  # noqa: RUF012 - as people write it


SYNC = [Dispatched, DispatchedByTwo, Got, Method, Inherited, MethodDecorated, OwnDispatch, Mixed, MixedToo]
ASYNC = [DispatchedAsync, GotAsync, MethodAsync, OwnDispatchAsync, MixedAsync]


def statuses(view: Any, n: int, requests: RequestFactory) -> list[int]:
    answers = [view(requests.get("/")) for _ in range(n)]
    return [asyncio.run(each).status_code if asyncio.iscoroutine(each) else each.status_code for each in answers]


@pytest.mark.parametrize("view_class", [*SYNC, *ASYNC])
def test_each_way_limits(requests: RequestFactory, view_class: type[View]) -> None:
    view = view_class.as_view()
    assert statuses(view, 3, requests) == [200, 429, 429]


@pytest.mark.parametrize("classes", [SYNC, ASYNC])
def test_no_two_views_share_a_count(requests: RequestFactory, classes: list[type[View]]) -> None:
    assert [statuses(view_class.as_view(), 1, requests) for view_class in classes] == [[200]] * len(classes)


def test_a_method_of_any_class_may_be_decorated(requests: RequestFactory) -> None:
    """As an admin's are, say, which Django calls as views."""

    class Ordinary:
        @ONE
        def page(self, request: HttpRequest) -> HttpResponse:
            return HttpResponse("ok")

    assert statuses(Ordinary().page, 2, requests) == [200, 429]


def test_as_view_may_be_decorated(requests: RequestFactory) -> None:
    one, two = ONE(Plain.as_view()), ONE(PlainAsync.as_view())
    assert statuses(one, 2, requests) == [200, 429]
    assert statuses(two, 2, requests) == [200, 429]
    assert one.view_class is Plain  # type: ignore[attr-defined] # Django's own attribute
    assert one.limiter.key == f"{__name__}.Plain"  # type: ignore[attr-defined] # for inspection


def test_an_asynchronous_class_asks_asynchronously(requests: RequestFactory) -> None:
    class Refusing(MemoryBackend):
        """Can't be asked in an event loop without blocking it."""

        def _apply(self, calls: Any) -> Any:
            raise AssertionError("blocked the event loop")

    store: Backend = Refusing()
    decorator = method_decorator(rate_limit("ip", "1/m", backend=store), name="dispatch")
    blocked: Any = decorator(type("Blocked", (PlainAsync,), {}))
    view = blocked.as_view()
    assert statuses(view, 2, requests) == [200, 429]


def test_the_limiter_stays_the_same_from_request_to_request(requests: RequestFactory) -> None:
    """method_decorator decorates anew for every request; what the limiter knows must not be lost by that."""
    limiter = DispatchedByTwo.dispatch.limiter  # type: ignore[attr-defined] # for inspection
    statuses(DispatchedByTwo.as_view(), 2, requests)
    assert DispatchedByTwo.dispatch.limiter is limiter  # type: ignore[attr-defined] # for inspection


def test_the_mixin_takes_what_as_view_is_given(requests: RequestFactory) -> None:
    view = Mixed.as_view(rate_limit="2/m")
    assert statuses(view, 3, requests) == [200, 200, 429]
    assert statuses(Mixed.as_view(rate_limit=None), 3, requests) == [200] * 3


def test_the_mixin_takes_functions(requests: RequestFactory) -> None:
    class ByPath(RateLimitMixin, Plain):
        rate_limit = staticmethod(lambda request: "1/m")
        rate_limit_options = {  # noqa: RUF012 - as people write it
            "backend": STORE
        }

        @staticmethod
        def rate_limit_key(request: HttpRequest) -> str:
            return request.path

    assert statuses(ByPath.as_view(), 2, requests) == [200, 429]


def test_the_mixin_without_a_rate_limits_nothing(requests: RequestFactory) -> None:
    class Free(RateLimitMixin, TemplateView):
        def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            return HttpResponse("ok")

    assert statuses(Free.as_view(), 3, requests) == [200] * 3


def test_the_mixin_refuses_wrong_options_where_the_view_is_made() -> None:
    class Wrong(RateLimitMixin, Plain):
        rate_limit = "often"

    with pytest.raises(ConfigurationError, match="'often' is not a rate"):
        Wrong.as_view()
