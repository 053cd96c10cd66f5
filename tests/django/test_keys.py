"""Keys: every answer that a request may give to the question whose it is."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.exceptions import PermissionDenied, SuspiciousOperation
from django.http import Http404, HttpRequest
from django.test import RequestFactory

from ratelimit_core import ConfigurationError
from ratelimit_core.django.limits.keys import key_function

ADDRESS = "ip:127.0.0.1"
MakeRequest = Callable[..., HttpRequest]


@pytest.fixture
def get(requests: RequestFactory) -> MakeRequest:
    return requests.get


def key_of(key: object, request: HttpRequest) -> str | None:
    return key_function(key)(request, "the.scope")


def test_ip(get: MakeRequest) -> None:
    assert key_of("ip", get("/")) == ADDRESS
    assert key_of("ip", get("/", REMOTE_ADDR="")) == "ip:unknown"


@pytest.mark.parametrize("key", ["user", "user_or_ip"])
def test_user(get: MakeRequest, key: str) -> None:
    request: Any = get("/")
    assert key_of(key, request) == ADDRESS  # no authentication at all
    request.user = SimpleNamespace(is_authenticated=False, pk=None)
    assert key_of(key, request) == ADDRESS
    request.user = SimpleNamespace(is_authenticated=True, pk=7)
    assert key_of(key, request) == "user:7"


@pytest.mark.parametrize(
    ("key", "request_with", "label"),
    [
        ("header:X-Api-Key", {"headers": {"X-Api-Key": "s3cret"}}, "header:x-api-key:"),
        ("header:content-type", {"content_type": "s3cret"}, "header:content-type:"),
        ("get:token", {"query_params": {"token": "s3cret"}}, "get:token:"),
        ("post:token", {"data": {"token": "s3cret"}}, "post:token:"),
    ],
)
def test_what_the_client_sends_is_hashed(
    requests: RequestFactory, key: str, request_with: dict[str, Any], label: str
) -> None:
    found = key_of(key, requests.post("/", **request_with))
    assert found is not None
    assert found.startswith(label)
    assert "s3cret" not in found
    assert key_of(key, requests.post("/", **request_with)) == found
    assert key_of(key, requests.post("/", content_type="other")) != found


@pytest.mark.parametrize("key", ["header:X-Api-Key", "get:token", "post:token", "attr:tenant", "attr:tenant.name"])
def test_what_is_missing_gives_way_to_the_address(get: MakeRequest, key: str) -> None:
    assert key_of(key, get("/")) == ADDRESS


def test_attr(get: MakeRequest) -> None:
    request: Any = get("/")
    request.tenant = SimpleNamespace(pk=3, name="acme", parent=None)
    assert key_of("attr:tenant", request) == "attr:tenant:3"
    assert key_of("attr:tenant.name", request) == "attr:tenant.name:acme"
    assert key_of("attr:tenant.parent", request) == ADDRESS


def test_const(get: MakeRequest) -> None:
    assert key_of("const:export", get("/")) == "const:export"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a", "key:a"),
        ("", "key:"),
        (0, "key:0"),
        (None, None),
        ("schön \x00", "key:schön \x00"),
        ("\ud800", "key:\ud800"),
    ],
)
def test_a_function_may_return_anything(get: MakeRequest, value: object, expected: str | None) -> None:
    assert key_of(lambda request: value, get("/")) == expected


def test_long_keys_are_bounded_and_stay_apart(get: MakeRequest) -> None:
    a, b = (key_of(lambda request, end=end: "x" * 1_000_000 + end, get("/")) for end in "ab")
    assert a is not None
    assert len(a) < 100
    assert a != b


class Keys:
    def method(self, request: HttpRequest) -> str:
        return "method"

    def __call__(self, group: str, request: HttpRequest) -> str:
        return f"{group} {request.path}"


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda request: request.path, "key:/a"),
        (lambda group, request: f"{group}{request.path}", "key:the.scope/a"),
        (lambda request, *args, **kwargs: f"{args}{kwargs}", "key:(){}"),
        (lambda *args: str(len(args)), "key:1"),
        (lambda request, unit="m": unit, "key:m"),
        (Keys().method, "key:method"),
        (Keys(), "key:the.scope /a"),
    ],
)
def test_a_function_gets_the_arguments_that_it_takes(
    get: MakeRequest, function: Callable[..., str], expected: str
) -> None:
    assert key_of(function, get("/a")) == expected


def test_a_function_that_raises_gives_way_to_the_address_and_is_logged_once(
    get: MakeRequest, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(request: HttpRequest) -> str:
        raise RuntimeError("no tenant here")

    find = key_function(broken)
    assert [find(get("/"), "the.scope") for _ in range(3)] == [ADDRESS] * 3
    [record] = caplog.records
    assert "the.scope" in record.getMessage()
    assert "no tenant here" in (record.exc_text or "")


def test_a_function_that_returns_a_coroutine_gives_way_to_the_address_too(get: MakeRequest) -> None:
    assert key_of(lambda request: asynchronous(request=request), get("/")) == ADDRESS


@pytest.mark.parametrize("answer", [Http404, PermissionDenied, SuspiciousOperation])
def test_what_django_answers_is_an_answer(get: MakeRequest, answer: type[Exception]) -> None:
    def refusing(request: HttpRequest) -> str:
        raise answer

    with pytest.raises(answer):
        key_of(refusing, get("/"))


async def asynchronous(request: HttpRequest) -> str:
    return "a"


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("usr", "did you mean 'user'"),
        ("user_or_id", "did you mean 'user_or_ip'"),
        ("header", "did you mean 'header:NAME'"),
        ("headr:X-Api-Key", "did you mean 'header:NAME'"),
        ("ip:1", "ip"),
        ("", "the known options are"),
        ("header:", "name after the colon"),
        ("get: a", "name after the colon"),
        ("header:X Api", "name of a header"),
        (None, "should be a string"),
        (7, "should be a string"),
        (lambda: "a", r"should take the request.*not \(\)"),
        (lambda a, b, c: "a", r"should take the request.*not \(a, b, c\)"),
        (lambda request, *, tenant: "a", r"should take the request.*tenant"),
        (asynchronous, "plain function"),
    ],
)
def test_a_wrong_key_is_an_error_that_says_what_to_write(key: object, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        key_function(key)
