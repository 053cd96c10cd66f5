"""What is logged and raised: no line is split, and nothing is told that should stay between two."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from click.testing import CliRunner
from django.test import RequestFactory

from ratelimit_core import (
    CircuitBreaker,
    CircuitBreakerError,
    ConfigurationError,
    Limiter,
    RateLimitExceeded,
    configure,
    get_backend,
)
from ratelimit_core.backends import MemoryBackend, MultiBackend, RedisBackend
from ratelimit_core.django.decorators import rate_limit
from ratelimit_core.errors import BackendError
from ratelimit_core.events import ConfigMismatch, Event, ModeChanged, StateChanged, StoreAvailabilityChanged, emit
from ratelimit_core.guard import Guard
from ratelimit_core.policies import BREAKER
from ratelimit_core.testing import ManualClock
from resilient_tasks.ops import check, cli
from tests import servers
from tests.security.names import HOSTILE
from tests.security.test_names import fine

HERE = {title: name for title, name in HOSTILE.items() if len(name) <= 1000}
SECRET = "s3cr3t-and-nobodys"
PERSON = "ann@example.org"


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What a log file would hold."""
    shown = logging.Formatter("%(levelname)s %(message)s")
    return [line for record in caplog.records for line in shown.format(record).splitlines()]


@pytest.mark.parametrize("text", HERE.values(), ids=HERE)
def test_every_event_is_one_line(caplog: pytest.LogCaptureFixture, text: str) -> None:
    caplog.set_level(logging.INFO)
    events: list[Event] = [
        StateChanged(text, "closed", "open", 3, 4.5),
        StateChanged(text, "open", "half_open"),
        ModeChanged(text, "forced_open", author=text, reason=text, ttl=9.0),
        ConfigMismatch(text),
        StoreAvailabilityChanged(available=False, reason=text),
        StoreAvailabilityChanged(available=True),
    ]
    for event in events:
        emit(event)
    assert len(lines(caplog)) == len(events)
    assert all(line.isprintable() for line in lines(caplog))


@pytest.mark.parametrize("text", HERE.values(), ids=HERE)
def test_every_refusal_is_one_line(text: str) -> None:
    for error in (CircuitBreakerError(text), RateLimitExceeded(text), RateLimitExceeded("", name=text)):
        for shown in (str(error), repr(error)):
            assert shown.isprintable()


@pytest.mark.parametrize("text", HERE.values(), ids=HERE)
def test_a_terminal_is_shown_names_and_told_nothing(text: str) -> None:
    configure(backend="memory://")
    breaker = CircuitBreaker("{name}").bind(name=text)
    breaker.force_open(author=text, reason=text)
    obj: Any = type("Context", (), {"app": _App()})()
    for command in (["status"], ["history", text]):
        shown = CliRunner().invoke(cli.resilience, command, obj=obj)
        assert all(line.isprintable() for line in shown.output.split("\n")), shown.output
        if command == ["status"]:
            assert (shown.exit_code, len(shown.output.splitlines())) == (0, 2), shown.output


class _App:
    """What the commands want of an app."""

    loader: Any = type("Loader", (), {"import_default_modules": lambda self: None})()

    def set_current(self) -> None: ...

    def finalize(self) -> None: ...


MISTAKES: list[Callable[[], object]] = [
    lambda: configure(backend=f"redis://:{SECRET}/x@host"),
    lambda: configure(backend=f"redis://user:{SECRET}/x@host/0"),
    lambda: configure(backend=f"redis://:{SECRET}#x@host:1/0"),
    lambda: configure(backend=f"redis://:{SECRET}[@host/0"),
    lambda: configure(backend=f"redis://:{SECRET}@host:port/0"),
    lambda: configure(backend=f"redis://:{SECRET}\n@host:port/0"),
    lambda: configure(backend=f"redis://host/0?password={SECRET}&what=1"),
    lambda: configure(backend=f"redis+sentinel://:{SECRET}@host"),
    lambda: configure(backend=f"redis+sentinel://a:{SECRET}/x@host:26379/main"),
    lambda: configure(backend=f"redis+cluster://:{SECRET}@host/3"),
    lambda: configure(backend=f"redis+cluster://a:{SECRET}/x@host"),
    lambda: configure(backend=f"redsi://:{SECRET}@host"),
    lambda: configure(backend=f"redis//:{SECRET}@host/0"),
    lambda: configure(backend=f"redis:/:{SECRET}@host/0"),
    lambda: configure(backend="redis", backend_options=f"password={SECRET}"),
    lambda: configure(backend={"url": f"redis://:{SECRET}@host"}),
    lambda: configure(redis=f"host=redis, password={SECRET}"),
    lambda: configure(redis=[{"password": SECRET}]),
    lambda: configure(redis=[{"password": f"it's \"{SECRET}"}]),
    lambda: configure(redis=[{"password": SECRET.encode()}]),
    lambda: configure(redis=[{"passwd": SECRET}]),
    lambda: configure(redis=f"{{'password': '{SECRET}', \"db\": 1}}"),
    lambda: configure(redis=f"host=redis password=a\\ {SECRET}"),
    lambda: configure(backends={"url": f"redis://:{SECRET}@host"}),
    lambda: configure(backend="multi://", backends=[{"name": "a", "options": {"password": SECRET}}]),
    lambda: configure(backend="multi://", backends=f"redis://:{SECRET}@host"),
    lambda: get_backend(f"redos://:{SECRET}@host"),
    lambda: RedisBackend(f"redis://:{SECRET}/x@host"),
    lambda: RedisBackend(f":{SECRET}@host"),
    lambda: MultiBackend([f"redis://:{SECRET}@host"]),  # type: ignore[list-item] # the mistake
    lambda: Limiter("1/s", key="x", backend=f"redis://:{SECRET}@host"),  # type: ignore[arg-type] # the mistake
    lambda: CircuitBreaker("x", backend=f"redos://:{SECRET}@host").acquire(),  # type: ignore[arg-type] # the mistake
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=range(len(MISTAKES)))
def test_an_error_in_a_setting_names_no_password(mistake: Callable[[], object]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        mistake()
    told = "".join(traceback.format_exception(caught.value, chain=True))
    told = "\n".join(line for line in told.splitlines() if "SECRET" not in line)  # this file, quoted
    assert SECRET not in told + repr(caught.value)
    assert SECRET[:6] not in told


@pytest.mark.parametrize(
    "said", [f"{{'password': '{SECRET}'}}", f"redis://:{SECRET}@host", f"a \"b\" password='{SECRET}'"]
)
def test_what_a_check_says_of_an_error_names_no_password(said: str) -> None:
    shown = check._said(ValueError(f'{said} isn\'t what it "should" be'))
    assert SECRET not in shown
    assert shown.startswith("ValueError")


@pytest.fixture
def locked() -> Iterator[str]:
    """A server that wants a password; without it, and a port."""
    with servers.valkey() as url, redis.Redis.from_url(url) as client:
        client.config_set("requirepass", "another one")
        yield url.removeprefix("redis://")


def test_a_store_that_does_not_let_us_in_is_told_of_without_the_password(
    locked: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = RedisBackend(f"redis://:{SECRET}@{locked}")
    configure(backend=store)
    with pytest.raises(BackendError) as caught:
        store.keys(BREAKER)
    CircuitBreaker("payments").call(len, "")
    assert "away" in caplog.text
    assert SECRET not in caplog.text + repr(store) + "".join(traceback.format_exception(caught.value))
    store.close()


def test_whose_call_was_refused_is_told_to_nobody(clock: ManualClock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    limiter = Limiter("1/h", key="search", concurrency=5, backend=MemoryBackend(clock=clock))
    guard = Guard(None, limiter)
    guard.acquire(key=PERSON)
    with pytest.raises(RateLimitExceeded) as caught:
        guard.acquire(key=PERSON)
    error = caught.value
    assert (str(error)[:16], error.key) == ("'search' limited", PERSON)
    assert PERSON not in repr(error) + str(error) + repr(error.args) + "".join(traceback.format_exception(error))
    assert PERSON not in repr(error.waiting(3.0))
    assert PERSON not in caplog.text


@pytest.mark.parametrize("options", [{}, {"shadow": True}, {"cost": lambda request: -1}], ids=["", "shadow", "cost"])
@pytest.mark.parametrize("key", ["ip", "user", "header:x-api-key", "get:token", lambda request: SECRET])
def test_whose_request_was_refused_is_told_to_nobody(
    requests: RequestFactory, clock: ManualClock, caplog: pytest.LogCaptureFixture, key: Any, options: dict[str, Any]
) -> None:
    caplog.set_level(logging.DEBUG)
    view = rate_limit(key, "1/h", backend=MemoryBackend(clock=clock), **options)(fine)
    for _ in range(3):
        request: Any = requests.get("/", {"token": SECRET}, headers={"x-api-key": SECRET}, REMOTE_ADDR="203.0.113.77")
        request.user = type("User", (), {"is_authenticated": True, "pk": SECRET})()
        response = view(request)
        told = caplog.text + repr(response.serialize_headers()) + response.content.decode()
        assert SECRET not in told
        assert "203.0.113.77" not in told


def test_a_key_function_that_fails_tells_its_error_once_and_no_key(
    requests: RequestFactory, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    def tenant(request: Any) -> str:
        raise LookupError("no tenant")

    view = rate_limit(tenant, "1/h", backend=MemoryBackend(clock=clock))(fine)
    for _ in range(3):
        view(requests.get("/", REMOTE_ADDR="203.0.113.77"))
    assert len(caplog.records) == 1
    assert "203.0.113.77" not in caplog.text


def test_the_store_is_asked_by_hashes_of_what_a_client_sends(requests: RequestFactory, clock: ManualClock) -> None:
    store = MemoryBackend(clock=clock)
    for key in ("header:x-api-key", "get:token", "post:token"):
        request = requests.post("/?token=" + SECRET, {"token": SECRET}, headers={"x-api-key": SECRET})
        rate_limit(key, "1/h", backend=store, algorithm="fixed_window")(fine)(request)
    listed = [name for policy in store._records._entries.values() for name, _ in policy]
    assert len(listed) == 3
    assert not [name for name in listed if SECRET in name]
