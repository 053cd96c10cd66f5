"""``@rate_limit`` on functions."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import pytest
import redis
from celery import Celery
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.test import Client, RequestFactory

from ratelimit_core import ConfigurationError, Rate, configure
from ratelimit_core.backends import MemoryBackend, RedisBackend
from ratelimit_core.django.decorators import aratelimit, rate_limit, ratelimit
from ratelimit_core.django.limits.responses import Refusal
from ratelimit_core.django.signals import rate_limit_allowed, rate_limit_denied
from ratelimit_core.testing import ManualClock
from tests.django import settings
from tests.django.conftest import Configure
from tests.django.views import LAST_MODIFIED
from tests.servers import PATIENT

Call = Callable[..., HttpResponse]


@pytest.fixture
def call(requests: RequestFactory, backend: MemoryBackend) -> Call:
    """Call a view; ``call(view, "/a", REMOTE_ADDR=...)``."""

    def call(view: Any, path: str = "/", **extra: Any) -> HttpResponse:
        response: HttpResponse = view(requests.get(path, **extra))
        return response

    return call


@pytest.fixture
def limited(backend: MemoryBackend) -> Callable[..., Any]:
    """A view that counts its calls in ``view.ran``, limited on the store of the test."""

    def limited(key: Any = "ip", rate: Any = "2/m", **options: Any) -> Any:
        ran: list[HttpRequest] = []

        def view(request: HttpRequest) -> HttpResponse:
            ran.append(request)
            return HttpResponse("ok")

        decorated: Any = rate_limit(key, rate, **{"backend": backend, **options})(view)
        decorated.ran = ran
        return decorated

    return limited


def statuses(call: Call, view: Any, n: int, **extra: Any) -> list[int]:
    return [call(view, **extra).status_code for _ in range(n)]


def test_over_the_limit_it_is_429_and_the_view_does_not_run(call: Call, limited: Any, clock: ManualClock) -> None:
    view = limited()
    assert statuses(call, view, 4) == [200, 200, 429, 429]
    assert len(view.ran) == 2
    clock.advance(60)
    assert statuses(call, view, 3) == [200, 200, 429]


def test_waiting_as_long_as_retry_after_says_is_enough_and_hammering_does_not_prolong_it(
    call: Call, limited: Any, clock: ManualClock
) -> None:
    view = limited(rate="2/m")
    assert statuses(call, view, 2) == [200, 200]
    clock.advance(0.5)
    refused = [call(view) for _ in range(50)]
    assert {response.headers["Retry-After"] for response in refused} == {"60"}  # 59.5, rounded up
    clock.advance(int(refused[-1].headers["Retry-After"]))
    assert call(view).status_code == 200


def test_clients_are_apart(call: Call, limited: Any) -> None:
    view = limited()
    assert statuses(call, view, 3, REMOTE_ADDR="192.0.2.1") == [200, 200, 429]
    assert statuses(call, view, 3, REMOTE_ADDR="192.0.2.2") == [200, 200, 429]


def test_x_forwarded_for_is_nobodys_way_around(call: Call, limited: Any) -> None:
    view = limited()
    codes = [call(view, HTTP_X_FORWARDED_FOR=f"192.0.2.{i}").status_code for i in range(4)]
    assert codes == [200, 200, 429, 429]


def test_trusted_proxies_come_from_the_settings(call: Call, limited: Any, configured: Configure) -> None:
    configured(RATELIMIT_TRUSTED_PROXIES=["127.0.0.1"])
    view = limited()
    codes = [call(view, HTTP_X_FORWARDED_FOR=f"192.0.2.{i}").status_code for i in range(4)]
    assert codes == [200] * 4


def test_two_views_share_no_count_unless_they_share_a_scope(call: Call, backend: MemoryBackend) -> None:
    def one(request: HttpRequest) -> HttpResponse:
        return HttpResponse("one")

    def two(request: HttpRequest) -> HttpResponse:
        return HttpResponse("two")

    apart = rate_limit("ip", "1/m", backend=backend)
    assert [call(apart(view)).status_code for view in (one, two)] == [200, 200]
    together = rate_limit("ip", "1/m", backend=backend, scope="search")
    assert [call(together(view)).status_code for view in (one, two)] == [200, 429]


def test_several_rates_are_one_decision(call: Call, limited: Any, clock: ManualClock) -> None:
    view = limited(rate="2/s;3/m")
    assert statuses(call, view, 3) == [200, 200, 429]
    clock.advance(1)
    response = [call(view) for _ in range(2)]
    assert [each.status_code for each in response] == [200, 429]
    assert response[1].headers["Retry-After"] == "59"


def test_a_rate_may_depend_on_the_request(call: Call, limited: Any) -> None:
    view = limited(rate=lambda request: {"a": "1/m", "b": "2/m", "": None}[request.GET.get("plan", "")])
    assert statuses(call, view, 2, path="/?plan=a") == [200, 429]
    assert statuses(call, view, 3, path="/?plan=b") == [200, 200, 429]  # counters of its own
    assert statuses(call, view, 5) == [200] * 5
    assert view.limiter is None


def test_rates_may_be_a_list(call: Call, limited: Any) -> None:
    view = limited(rate=["2/s", Rate(3, 60)])
    assert statuses(call, view, 3) == [200, 200, 429]
    assert call(view).headers["RateLimit-Policy"] == '"2-per-1s";q=2;w=1, "3-per-60s";q=3;w=60'
    one = rate_limit("ip", lambda request: ["2/s"], scope="s", backend=MemoryBackend())
    assert statuses(call, one(page), 3) == [200, 200, 429]


def page(request: HttpRequest) -> HttpResponse:
    return HttpResponse("ok")


def test_a_request_costs_one_round_trip_whatever_its_cost_and_a_known_denial_none(call: Call, valkey_url: str) -> None:
    backend = RedisBackend(valkey_url, key_prefix="test-django", **PATIENT)
    client = redis.Redis.from_url(valkey_url)

    def scripts() -> int:
        stats = client.info("commandstats")
        return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("eval", "evalsha"))

    try:
        view = rate_limit("ip", "9/m;100/h", cost=4, backend=backend)(page)
        call(view)
        before = scripts()
        assert statuses(call, view, 1) == [200]
        assert scripts() - before == 1
        assert statuses(call, view, 5) == [429] * 5
        assert scripts() - before == 2
    finally:
        backend.clear()
        backend.close()
        client.close()


def test_a_rate_that_is_none_has_no_headers(call: Call, limited: Any) -> None:
    response = call(limited(rate=lambda request: None))
    assert "RateLimit" not in response.headers


@pytest.mark.parametrize("nonsense", ["often", "1/fortnight", 7, "", ()])
def test_a_rates_function_that_returns_nonsense_is_reported_once_and_limits_nothing(
    call: Call, limited: Any, caplog: pytest.LogCaptureFixture, nonsense: object
) -> None:
    view = limited(rate=lambda request: nonsense)
    assert statuses(call, view, 2) == [200, 200]
    assert ["is not a rate" in record.message for record in caplog.records] == [True]
    closed = call(limited(rate=lambda request: nonsense, on_store_failure="deny", scope="deny"))
    assert closed.status_code == 503


def test_block_false_tells_the_view(call: Call, limited: Any) -> None:
    view = limited(rate="1/m", block=False)
    assert statuses(call, view, 3) == [200] * 3
    assert [request.rate_limit_exceeded for request in view.ran] == [False, True, True]


def test_a_view_that_lets_pass_keeps_what_another_limit_found(call: Call, limited: Any, backend: MemoryBackend) -> None:
    inner = limited(rate="9/m", block=False)
    outer = rate_limit("ip", "1/m", block=False, backend=backend, scope="outer")(inner)
    statuses(call, outer, 2)
    assert [request.rate_limit_exceeded for request in inner.ran] == [False, True]


def test_cost(call: Call, limited: Any) -> None:
    assert statuses(call, limited(rate="10/m", cost=4, scope="fixed"), 3) == [200, 200, 429]
    view = limited(rate="10/m", cost=lambda request: int(request.GET["n"]), scope="function")
    assert [call(view, f"/?n={n}").status_code for n in (6, 5, 4)] == [200, 429, 200]


@pytest.mark.parametrize("cost", [0, -1, 1.5, "1", True, None])
def test_a_cost_that_is_none_is_an_error_that_names_it(call: Call, limited: Any, cost: Any) -> None:
    message = f"cost={cost!r} should be a whole number"
    with pytest.raises(ConfigurationError, match=message):
        limited(cost=cost)


def test_a_cost_of_nothing_is_free(call: Call, limited: Any) -> None:
    assert statuses(call, limited(rate="1/m", cost=lambda request: 0), 3) == [200] * 3


@pytest.mark.parametrize("cost", [-1, 1.5, "1", True, None])
def test_a_costs_function_that_returns_nonsense_is_reported_once_and_counts_as_one(
    call: Call, limited: Any, caplog: pytest.LogCaptureFixture, cost: Any
) -> None:
    assert statuses(call, limited(rate="2/m", cost=lambda request: cost), 3) == [200, 200, 429]
    assert [f"cost={cost!r} should be" in record.message for record in caplog.records].count(True) == 1


def test_a_cost_above_the_limit_is_refused_for_good(call: Call, limited: Any) -> None:
    with pytest.raises(ConfigurationError, match="cost=3 can never be allowed by '2/m;9/s'; write at most 2"):
        limited(rate="2/m;9/s", cost=3)
    view = limited(rate="2/m", cost=lambda request: 3)
    response = call(view)
    assert response.status_code == 429
    assert "Retry-After" not in response.headers
    assert b"will not help" in response.content
    assert not view.ran
    wide = limited(
        rate="2/m",
        algorithm="token_bucket",
        algorithm_config={"burst": 5},
        cost=lambda request: 5,
        scope="burst",
    )
    assert call(wide).status_code == 200


def test_skip_if(call: Call, limited: Any) -> None:
    view = limited(rate="1/m", skip_if=lambda request: request.path == "/free")
    assert statuses(call, view, 3, path="/free") == [200] * 3
    assert statuses(call, view, 2) == [200, 429]


def test_a_key_of_none_is_not_limited(call: Call, limited: Any) -> None:
    assert statuses(call, limited(key=lambda request: None, rate="1/m"), 3) == [200] * 3


def test_a_header_can_not_be_left_out_to_get_around_the_limit(call: Call, limited: Any) -> None:
    view = limited(key="header:X-Api-Key", rate="1/m")
    assert statuses(call, view, 2) == [200, 429]
    assert statuses(call, view, 2, HTTP_X_API_KEY="k") == [200, 429]


@pytest.mark.parametrize("value", ["x" * 1_000_000, "schlüssel", "\x00{}% :", "\udce4"])
def test_no_key_is_an_error(call: Call, limited: Any, value: str) -> None:
    for key in ("header:X-Api-Key", lambda request: value):
        view = limited(key=key, rate="1/m", scope=repr(key))
        assert statuses(call, view, 2, HTTP_X_API_KEY=value) == [200, 429]


def test_the_allow_list_comes_before_the_deny_list(call: Call, limited: Any) -> None:
    view = limited(rate="1/m", allow_list=["192.0.2.7"], deny_list=["192.0.2.0/24"])
    assert statuses(call, view, 3, REMOTE_ADDR="192.0.2.7") == [200] * 3
    assert statuses(call, view, 2, REMOTE_ADDR="192.0.2.8") == [403, 403]
    assert statuses(call, view, 2, REMOTE_ADDR="198.51.100.1") == [200, 429]


def test_lists_may_be_functions_or_one_network(call: Call, limited: Any) -> None:
    view = limited(rate="1/m", allow_list=lambda request: request.path == "/a", deny_list="192.0.2.0/24")
    assert statuses(call, view, 2, path="/a", REMOTE_ADDR="192.0.2.1") == [200, 200]
    assert call(view, REMOTE_ADDR="192.0.2.1").status_code == 403


def test_shadow_decides_and_tells_but_refuses_nothing(
    call: Call, limited: Any, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[bool] = []

    def denied(*, shadow: bool, **_: Any) -> None:
        heard.append(shadow)

    caplog.set_level("INFO", "ratelimit_core")
    view = limited(rate="1/m", shadow=True, deny_list=["192.0.2.1"])
    rate_limit_denied.connect(denied)
    try:
        responses = [call(view) for _ in range(3)]
    finally:
        rate_limit_denied.disconnect(denied)
    assert [response.status_code for response in responses] == [200] * 3
    assert "RateLimit" not in responses[-1].headers
    assert not any(request.rate_limit_exceeded for request in view.ran)
    assert heard == [True, True]
    assert [record.getMessage().endswith("would be denied for 60.0 s") for record in caplog.records] == [True] * 2
    assert call(view, REMOTE_ADDR="192.0.2.1").status_code == 200


def test_a_response_callback_makes_the_response(call: Call, limited: Any) -> None:
    def respond(request: HttpRequest, refusal: Refusal) -> HttpResponse:
        return JsonResponse({"reason": refusal.reason, "wait": refusal.retry_after}, status=420)

    view = limited(rate="1/m", response_callback=respond)
    response = [call(view) for _ in range(2)][1]
    assert (response.status_code, response.content) == (420, b'{"reason": "limited", "wait": 60.0}')
    assert response.headers["Retry-After"] == "60"
    short = limited(rate="1/m", response_callback=lambda request: HttpResponse("later", status=429), scope="short")
    assert [call(short).content for _ in range(2)] == [b"ok", b"later"]


def test_a_response_callback_that_makes_none_is_an_error_that_names_it(call: Call, limited: Any) -> None:
    view = limited(rate="1/m", response_callback=lambda request: "later")
    call(view)
    with pytest.raises(ConfigurationError, match="should return an HttpResponse, not 'later'"):
        call(view)


def handler(request: HttpRequest) -> HttpResponse:
    return HttpResponse("the site's own", status=429)


def test_the_response_handler_of_the_settings(call: Call, limited: Any, configured: Configure) -> None:
    configured(RATELIMIT_RESPONSE_HANDLER=f"{__name__}.handler")
    view = limited(rate="1/m")
    assert [call(view).content for _ in range(2)] == [b"ok", b"the site's own"]
    configured(RATELIMIT_RESPONSE_HANDLER="nowhere.handler")
    with pytest.raises(ConfigurationError, match=r"response_handler='nowhere.handler' can't be imported"):
        call(view)


def test_who_asks_for_json_gets_json(call: Call, limited: Any) -> None:
    view = limited(rate="1/m")
    call(view)
    response = call(view, HTTP_ACCEPT="application/json")
    assert response.headers["Content-Type"] == "application/json"
    assert b'"error": "limited"' in response.content
    assert b'"retry_after": 60' in response.content


def test_a_view_that_raises_has_run_once_and_used_its_request(call: Call, backend: MemoryBackend) -> None:
    ran = []

    @rate_limit("ip", "2/m", backend=backend, algorithm="token_bucket", concurrency=1)
    def view(request: HttpRequest) -> HttpResponse:
        ran.append(request)
        raise LookupError("its own")

    for _ in range(2):
        with pytest.raises(LookupError, match="its own"):
            call(view)
    assert len(ran) == 2
    assert call(view).status_code == 429


def test_concurrency_is_given_back_when_the_view_ends(call: Call, limited: Any, requests: RequestFactory) -> None:
    inner: list[int] = []

    @rate_limit("ip", concurrency=1, backend=MemoryBackend())
    def view(request: HttpRequest) -> HttpResponse:
        if request.path == "/outer":
            inner.append(view(requests.get("/")).status_code)
        return HttpResponse("ok")

    response = call(view, "/outer")
    assert (response.status_code, inner) == (200, [429])
    assert response.headers["RateLimit-Policy"] == '"1-at-once";q=1;qu="concurrent-requests"'
    assert statuses(call, view, 3) == [200] * 3


def test_a_stream_holds_its_place_until_it_is_closed(call: Call) -> None:
    from django.http import StreamingHttpResponse

    @rate_limit("ip", concurrency=1, backend=MemoryBackend())
    def view(request: HttpRequest) -> StreamingHttpResponse:
        return StreamingHttpResponse(iter([b"a", b"b"]))

    stream: Any = call(view)
    assert b"".join(stream) == b"ab"
    assert call(view).status_code == 429
    stream.close()
    assert call(view).status_code == 200


def test_a_place_is_given_back_though_a_304_takes_the_place_of_the_stream(configured: Configure) -> None:
    configured(
        ROOT_URLCONF="tests.django.urls",
        MIDDLEWARE=["django.middleware.http.ConditionalGetMiddleware", *settings.MIDDLEWARE],
    )
    for path in ("/streamed/", "/streamed-async/"):
        for _ in range(3):
            assert Client().get(path, headers={"If-Modified-Since": LAST_MODIFIED}).status_code == 304
        with contextlib.closing(Client().get(path)) as response:
            assert response.status_code == 200
            assert Client().get(path).status_code == 429
        assert Client().get(path, headers={"If-Modified-Since": LAST_MODIFIED}).status_code == 304


def test_enable_false_lets_all_pass(call: Call, limited: Any, configured: Configure) -> None:
    view = limited(rate="1/m")
    configured(RATELIMIT_ENABLE=False)
    assert statuses(call, view, 3) == [200] * 3
    configured(RATELIMIT_ENABLE=True)
    assert statuses(call, view, 2) == [200, 429]
    configure(enable=False)
    assert statuses(call, view, 2) == [200, 200]


def test_the_algorithm_of_the_settings(limited: Any, configured: Configure) -> None:
    configured(RATELIMIT_ALGORITHM="fixed_window")
    assert limited().limiter.limits[0].policy.name == "fixed_window"
    assert limited(algorithm="sliding_window").limiter.limits[0].policy.name == "sliding_window"


def test_the_first_source_wins_whichever_of_the_two_names_it_uses(
    limited: Any, configured: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RATELIMIT_ON_STORE_FAILURE", "deny")
    assert limited().limiter.on_store_failure == "deny"
    configured(RATELIMIT_FAIL_OPEN=True)
    assert limited().limiter.on_store_failure == "allow"
    configured(RATELIMIT_ON_STORE_FAILURE="local")
    assert limited().limiter.on_store_failure == "local"


@pytest.mark.parametrize(("fail_open", "on_store_failure"), [(None, "local"), (True, "allow"), (False, "deny")])
def test_fail_open_says_what_happens_while_the_store_is_away(
    limited: Any, configured: Configure, fail_open: bool | None, on_store_failure: str
) -> None:
    configured(RATELIMIT_FAIL_OPEN=fail_open)
    assert limited().limiter.on_store_failure == on_store_failure
    assert limited(on_store_failure="local").limiter.on_store_failure == "local"


def test_the_view_keeps_its_name_and_the_limiter_can_be_reached(call: Call, limited: Any) -> None:
    view = limited()
    assert view.__name__ == "view"
    assert view.limiter.key == f"{__name__}.limited.<locals>.limited.<locals>.view"
    statuses(call, view, 3)
    view.limiter.reset(key=f"{view.limiter.key}:ip:127.0.0.1")
    assert call(view).status_code == 200


def test_signals_tell_of_each_decision(call: Call, limited: Any) -> None:
    heard: list[tuple[str, Any, str, str]] = []

    def allowed(sender: Any, decision: Any, key: str, group: str, **_: Any) -> None:
        heard.append(("allowed", decision.remaining, key, group))

    def denied(sender: Any, decision: Any, key: str, group: str, **_: Any) -> None:
        heard.append(("denied", decision.remaining, key, group))
        raise RuntimeError("a receiver's own")

    rate_limit_allowed.connect(allowed)
    rate_limit_denied.connect(denied)
    try:
        view = limited(rate="1/m", scope="s")
        assert statuses(call, view, 2) == [200, 429]
    finally:
        rate_limit_allowed.disconnect(allowed)
        rate_limit_denied.disconnect(denied)
    assert heard == [("allowed", 0, "s:ip:127.0.0.1", "s"), ("denied", 0, "s:ip:127.0.0.1", "s")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": "often"}, "'often' is not a rate"),
        ({"rate": None}, "needs a rate"),
        ({"key": "usr"}, "did you mean 'user'"),
        ({"algorithm": "sliding"}, "algorithm='sliding' should be one of"),
        ({"algorithm_config": {"bursts": 3}}, "did you mean 'burst'"),
        ({"algorithm_config": {"burst": 3}}, "goes with algorithm='token_bucket'"),
        ({"on_store_failure": "ajar"}, "on_store_failure='ajar' should be one of"),
        ({"backend": 7}, "backend=7 should be a Backend"),
        ({"backend": "nowhere.Backend"}, "can't be imported"),
        ({"concurrency": 0}, "concurrency=0 should be"),
        ({"allow_list": ["10.0.0.0/33"]}, "allow_list: '10.0.0.0/33' should be an address"),
        ({"deny_list": lambda: True}, "deny_list=.* should take the request"),
        ({"allow_list": lambda group, request: True}, "allow_list=.* should take the request, not"),
        ({"skip_if": lambda: True}, "skip_if=.* should take the request"),
        ({"response_callback": lambda: 1}, "response_callback=.* should take the request"),
        ({"scope": ""}, "scope=''"),
    ],
)
def test_a_wrong_option_is_an_error_where_the_decorator_runs(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        rate_limit(**{"key": "ip", "rate": "1/s", **options})


def test_on_what_is_no_view_it_is_an_error_that_names_what_to_use() -> None:
    app = Celery("tests")

    @app.task(name="tests.charge")
    def charge(order: int) -> None: ...

    def nothing() -> None: ...

    class Page: ...

    with pytest.raises(ConfigurationError, match=r"@rate_limited_task.*Limiter"):
        rate_limit("ip", "1/s")(charge)
    with pytest.raises(ConfigurationError, match=r"nothing\(\) takes no argument.*@rate_limited_task.*Limiter"):
        rate_limit("ip", "1/s")(nothing)
    with pytest.raises(ConfigurationError, match=r"Page is a class.*method_decorator"):
        rate_limit("ip", "1/s")(Page)
    with pytest.raises(ConfigurationError, match=r"a lambda has no name.*scope="):
        rate_limit("ip", "1/s")(lambda request: HttpResponse())
    with pytest.raises(ConfigurationError, match=r"3 is not a view"):
        rate_limit("ip", "1/s")(3)  # type: ignore[type-var] # the point of the test


@pytest.mark.parametrize("arguments", [(), (7,), (7, 8), ("order", None)])
def test_called_without_a_request_it_is_an_error_that_names_what_to_use(arguments: tuple[Any, ...]) -> None:
    @rate_limit("ip", "1/s")
    def charge(*order: object) -> None:
        pytest.fail("ran")

    with pytest.raises(ConfigurationError, match=r"charge\(\) was called without a request.*@rate_limited_task"):
        charge(*arguments)


def test_a_request_by_name_and_a_partial(requests: RequestFactory, backend: MemoryBackend) -> None:
    def view(request: HttpRequest, page: str = "") -> HttpResponse:
        return HttpResponse(page)

    limited = rate_limit("ip", "1/m", backend=backend)(functools.partial(view, page="a"))
    assert limited(request=requests.get("/")).content == b"a"
    assert limited(requests.get("/")).status_code == 429
    assert limited.limiter.key.endswith(".view")  # type: ignore[attr-defined] # for inspection


def test_the_other_names_are_the_same() -> None:
    assert rate_limit is ratelimit is aratelimit
