"""What responses tell of limits."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.test import RequestFactory
from hypothesis import given
from hypothesis import strategies as st

from ratelimit_core import Limiter
from ratelimit_core.backends import MemoryBackend
from ratelimit_core.django.decorators import rate_limit
from ratelimit_core.django.limits import headers as fields
from ratelimit_core.django.limits.headers import Policies, note, retry_after, show
from ratelimit_core.limiter import Decision
from ratelimit_core.testing import ManualClock

POLICY = r'"[0-9a-z.-]+";q=\d+(;w=\d+|;qu="concurrent-requests")'


def page(request: HttpRequest) -> HttpResponse:
    return HttpResponse("ok")


def decorated(*limits: tuple[Any, ...], **options: Any) -> Any:
    view: Any = page
    for i, (key, rate) in enumerate(limits):
        view = rate_limit(key, rate, scope=f"limit {i}", **options)(view)
    return view


def test_the_limit_with_the_least_left_is_shown(requests: RequestFactory, backend: MemoryBackend) -> None:
    view = decorated(("ip", "10/s;1000/h"), backend=backend)
    headers = [view(requests.get("/")).headers for _ in range(6)][-1]
    assert headers["RateLimit-Policy"] == '"10-per-1s";q=10;w=1, "1000-per-3600s";q=1000;w=3600'
    assert headers["RateLimit"] == '"10-per-1s";r=4;t=1'
    assert headers["X-RateLimit-Limit"] == "10"
    assert headers["X-RateLimit-Remaining"] == "4"
    assert 0 <= int(headers["X-RateLimit-Reset"]) - time.time() <= 2
    assert "Retry-After" not in headers


def test_the_limit_that_refused_is_shown_though_another_allows_as_many(
    requests: RequestFactory, backend: MemoryBackend, clock: ManualClock
) -> None:
    @rate_limit("ip", "3/s", concurrency=3, backend=backend)
    def view(request: HttpRequest) -> StreamingHttpResponse:
        return StreamingHttpResponse(iter([b"a"]))

    running = [view(requests.get("/")) for _ in range(3)]
    assert [each.headers["RateLimit"] for each in running] == [f'"3-per-1s";r={left};t=1' for left in (2, 1, 0)]
    clock.advance(2)
    headers = view(requests.get("/")).headers
    assert (headers["RateLimit"], headers["Retry-After"]) == ('"3-at-once";r=0', "58")
    assert "X-RateLimit-Reset" not in headers


def test_of_two_that_refuse_the_one_that_makes_wait_longest_is_shown(
    requests: RequestFactory, backend: MemoryBackend
) -> None:
    view = decorated(("ip", "1/s;1/m"), backend=backend)
    headers = [view(requests.get("/")).headers for _ in range(2)][-1]
    assert (headers["RateLimit"], headers["Retry-After"]) == ('"1-per-60s";r=0;t=60', "60")


def test_of_several_decorators_the_tightest_is_shown_wherever_it_stands(
    requests: RequestFactory, backend: MemoryBackend
) -> None:
    for limits in [("ip", "2/m"), ("const:all", "9/m")], [("const:all", "9/m"), ("ip", "2/m")]:
        backend.clear()
        view = decorated(*limits, backend=backend)
        headers = [view(requests.get("/")).headers for _ in range(3)]
        assert [each["X-RateLimit-Limit"] for each in headers] == ["2"] * 3
        assert [each["RateLimit"] for each in headers] == [f'"2-per-60s";r={left};t=60' for left in (1, 0, 0)]
        assert sorted(headers[0]["RateLimit-Policy"].split(", ")) == ['"2-per-60s";q=2;w=60', '"9-per-60s";q=9;w=60']


def test_what_refused_is_shown_though_another_has_as_little_left(
    requests: RequestFactory, backend: MemoryBackend
) -> None:
    view = decorated(("const:all", "5/h"), ("ip", "7/m"), backend=backend, cost=3)
    view(requests.get("/"))
    view(requests.get("/"))
    response = view(requests.get("/"))
    assert response.status_code == 429
    assert response.headers["X-RateLimit-Limit"] == "7"


@pytest.mark.parametrize(
    ("rate", "policy"),
    [
        ("10/1500ms", '"10-per-1.5s";q=10;w=2'),
        ("10/500ms", '"10-per-0.5s";q=10;w=1'),
        ("5/400d", '"5-per-34560000s";q=5;w=34560000'),
    ],
)
def test_windows_are_whole_seconds(requests: RequestFactory, backend: MemoryBackend, rate: str, policy: str) -> None:
    headers = decorated(("ip", rate), backend=backend)(requests.get("/")).headers
    assert headers["RateLimit-Policy"] == policy


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "1"), (0.001, "1"), (1, "1"), (1.000001, "2"), (59.5, "60"), (3600, "3600")]
)
def test_retry_after_is_rounded_up(seconds: float, text: str) -> None:
    assert retry_after(seconds) == text


@given(st.text(min_size=1))
def test_no_text_of_anybody_reaches_a_header(text: str) -> None:
    view = rate_limit(lambda request: text, "1/s", scope=text, backend=MemoryBackend())(page)
    request = RequestFactory().get("/", REMOTE_ADDR=text, headers={"X-A": "b"})
    for _ in range(2):
        response = view(request)
        assert re.fullmatch(POLICY, response.headers["RateLimit-Policy"])
        assert re.fullmatch(r'"[0-9a-z.-]+";r=\d+(;t=\d+)?', response.headers["RateLimit"])


def test_what_is_no_number_reaches_no_header_either(requests: RequestFactory) -> None:
    limiter = Limiter("3/m", key="any", backend=MemoryBackend())
    request, response = requests.get("/"), HttpResponse()
    left: Any = "1\r\nX-Evil: 1"
    note(request, Policies([], limiter.limits), Decision(True, 3, left, 0.0, 0.0))
    with pytest.raises(ValueError, match="format"):
        show(request, response)
    assert "X-Evil" not in str(response.headers)


def test_a_django_that_keeps_headers_in_another_way_gets_the_same(
    requests: RequestFactory, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told() -> Any:
        return decorated(("ip", "10/s;1000/h"), backend=MemoryBackend(clock=clock))(
            requests.get("/")
        ).serialize_headers()

    monkeypatch.setattr(time, "time", lambda: 1_700_000_000.5)
    as_usual = told()
    assert fields._DJANGO_KEEPS_PAIRS
    monkeypatch.setattr(fields, "_DJANGO_KEEPS_PAIRS", False)
    assert told() == as_usual


@pytest.mark.parametrize("algorithm", ["sliding_window", "sliding_window_counter", "fixed_window", "token_bucket"])
def test_retry_after_is_long_enough(requests: RequestFactory, clock: ManualClock, algorithm: Any) -> None:
    view = decorated(("ip", "3/10s;7/m"), backend=MemoryBackend(clock=clock), algorithm=algorithm)
    refused = 0
    for _ in range(40):
        response = view(requests.get("/"))
        if response.status_code == 429:
            refused += 1
            clock.advance(int(response.headers["Retry-After"]))
            assert view(requests.get("/")).status_code == 200
        clock.advance(0.3)
    assert refused > 5


def test_a_limiter_that_was_asked_by_hand_shows_nothing(requests: RequestFactory, backend: MemoryBackend) -> None:
    Limiter("1/s", key="supplier", backend=backend).hit()
    assert "RateLimit" not in page(requests.get("/")).headers
