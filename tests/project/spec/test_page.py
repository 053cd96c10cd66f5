"""What SPEC.md shows, in its order, on every backend: its snippets as tests, with their own names and words."""

from __future__ import annotations

import copy
import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.http import HttpRequest, JsonResponse
from django.test import override_settings

from ratelimit_core import BackendError, CircuitBreaker, CircuitBreakerConfig, configure, get_backend, rate_limit
from ratelimit_core._util.clock import SECOND
from ratelimit_core.backends import Backend, MemoryBackend, MultiBackend, RedisBackend
from ratelimit_core.circuit_breaker import CircuitBreakerError, circuit_breaker, circuit_breaker_registry
from ratelimit_core.config.sources import setting
from ratelimit_core.store import configured
from ratelimit_core.testing import ManualClock
from tests.project.spec.conftest import Get, Make, failing
from tests.servers import free_port

PAGE = {
    "failure_threshold": 5,
    "recovery_timeout": 60,
    "reset_timeout": 300,
    "half_open_max_calls": 1,
    "exponential_backoff_multiplier": 2.0,
    "exponential_backoff_max": 300,
}
"""The settings that the page lists, with its values."""


def incr_fails(backend: Backend, times: int) -> None:
    for _ in range(times):
        with pytest.raises(BackendError):
            backend.incr("user:1", 60)


def status_of(backend: Backend) -> dict[str, Any]:
    status = backend.get_circuit_breaker_status()
    assert status is not None
    return status


class Upstream:
    """What a breaker protects; counts its calls."""

    def __init__(self) -> None:
        self.calls = 0
        self.error: BaseException | None = ConnectionError("upstream")

    def __call__(self) -> str:
        self.calls += 1
        if self.error is not None:
            raise copy.copy(self.error)  # a new one each time: the same one again is the same failure, seen further out
        return "fresh"


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()


def calls_fail(function: Callable[[], object], times: int) -> None:
    for _ in range(times):
        with pytest.raises(ConnectionError):
            function()


# States and algorithm


def test_closed_open_half_open_closed(backend: Backend, clock: ManualClock, upstream: Upstream) -> None:
    breaker = CircuitBreaker("upstream", clock=clock)
    guarded = breaker(upstream)
    assert breaker.state == "closed"
    calls_fail(guarded, 5)
    assert breaker.state == "open"
    for _ in range(10):
        with pytest.raises(CircuitBreakerError):
            guarded()
    assert upstream.calls == 5

    clock.advance(60)
    with breaker:
        assert breaker.state == "half_open"
        with pytest.raises(CircuitBreakerError):
            breaker.acquire()
    assert breaker.state == "closed"


def test_half_open_and_open_again(backend: Backend, clock: ManualClock, upstream: Upstream) -> None:
    breaker = CircuitBreaker("upstream", clock=clock)
    calls_fail(breaker(upstream), 5)
    clock.advance(60)
    calls_fail(breaker(upstream), 1)
    assert breaker.state == "open"


# Exponential back-off

WAITS = [60, 120, 240, 300, 300]


def test_the_wait_grows_with_each_opening(backend: Backend, clock: ManualClock, upstream: Upstream) -> None:
    breaker = CircuitBreaker("upstream", clock=clock)
    calls_fail(breaker(upstream), 4)
    for wait in WAITS:
        calls_fail(breaker(upstream), 1)
        status = breaker.get_status()
        assert status["backoff_time"] == wait
        assert status["next_attempt_time"] == clock.now / SECOND + wait
        clock.advance(wait - 0.001)
        assert not breaker.is_allowed()
        clock.advance(0.001)


def test_the_wait_of_a_backends_own_breaker_grows_too(make: Make, clock: ManualClock) -> None:
    backend = make()
    with failing(backend):
        incr_fails(backend, 4)
        for wait in WAITS:
            incr_fails(backend, 1)
            assert status_of(backend)["backoff_time"] == wait
            clock.advance(wait)
    assert backend.incr("user:1", 60) == 1
    assert status_of(backend)["state"] == "closed"


# Configuration: global


def test_what_the_page_lists_are_the_defaults() -> None:
    assert CircuitBreakerConfig(**PAGE) == CircuitBreakerConfig()  # type: ignore[arg-type] # of several types


OTHERS = {
    "failure_threshold": 2,
    "recovery_timeout": 7,
    "reset_timeout": 30,
    "half_open_max_calls": 2,
    "exponential_backoff_multiplier": 3.0,
    "exponential_backoff_max": 20,
}


def test_the_global_settings_reach_decorators(make: Make, clock: ManualClock, upstream: Upstream) -> None:
    configure(backend=make())
    with override_settings(RATELIMIT_CIRCUIT_BREAKER=OTHERS):
        breaker = CircuitBreaker("upstream", clock=clock)
        assert {option: getattr(breaker.config, option) for option in OTHERS} == OTHERS
        guarded = circuit_breaker(name="upstream")(upstream)
        for wait in (7, 20, 20):
            calls_fail(guarded, 2 if wait == 7 else 1)
            assert breaker.get_status()["backoff_time"] == wait
            clock.advance(wait)
        assert [breaker.is_allowed() for _ in range(3)] == [True, True, False]


def test_the_global_settings_reach_backends(make: Make, clock: ManualClock) -> None:
    with override_settings(RATELIMIT_CIRCUIT_BREAKER=OTHERS):
        backend = make()
        with failing(backend):
            incr_fails(backend, 2)
            assert status_of(backend)["state"] == "open"
            assert status_of(backend)["backoff_time"] == 7
            clock.advance(7)
            incr_fails(backend, 1)
            assert status_of(backend)["backoff_time"] == 20


# Configuration: of one backend


def test_a_backend_with_settings_of_its_own(make: Make, clock: ManualClock) -> None:
    settings = {"failure_threshold": 3, "recovery_timeout": 30}
    backend = make(enable_circuit_breaker=True, circuit_breaker_config=settings)
    with failing(backend):
        incr_fails(backend, 2)
        assert status_of(backend)["state"] == "closed"
        incr_fails(backend, 1)
    assert status_of(backend)["state"] == "open"
    assert status_of(backend)["next_attempt_time"] == clock.now / SECOND + 30


def test_a_backend_without_a_breaker(make: Make) -> None:
    backend = make(enable_circuit_breaker=False)
    with failing(backend):
        incr_fails(backend, 20)
    assert backend.incr("user:1", 60) == 1
    assert not backend.is_circuit_breaker_enabled()
    assert backend.get_circuit_breaker_status() is None
    assert backend.get_backend_health_status()["circuit_breaker_enabled"] is False
    backend.reset_circuit_breaker()


@pytest.fixture
def apart(default_redis: str) -> Iterator[str]:
    """A prefix of the test's own on the Redis that is there by default."""
    with override_settings(RATELIMIT_KEY_PREFIX=f"spec-{uuid.uuid4().hex}"):
        yield setting("key_prefix")
        RedisBackend().clear()


def test_redis_by_default_without_a_breaker(apart: str, default_redis: str) -> None:
    backend = RedisBackend(enable_circuit_breaker=False)
    assert [backend.incr("user:1", 60) for _ in range(3)] == [1, 2, 3]
    same = RedisBackend(default_redis, key_prefix=apart)
    assert same.get_count("user:1") == 3
    with failing(backend):
        incr_fails(backend, 20)
    assert backend.incr("user:1", 60) == 4
    assert not backend.is_circuit_breaker_enabled()
    for each in (backend, same):
        each.close()


def test_what_is_made_with_nothing_said_has_a_breaker_with_the_settings_of_the_page(apart: str) -> None:
    for backend in (RedisBackend(), MemoryBackend()):
        assert backend.is_circuit_breaker_enabled()
        assert backend.incr("user:1", 60) == 1
        with failing(backend):
            incr_fails(backend, 5)
            with pytest.raises(CircuitBreakerError) as caught:
                backend.incr("user:1", 60)
        assert caught.value.recovery_time == 60
        backend.close()


# Usage: automatic integration


@rate_limit(key="user", rate="100/h")
def account(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"balance": 5})


def fresh(view: Any) -> Any:
    """``view`` with a limiter that has not asked any store yet."""
    return rate_limit(key="user", rate="100/h")(view.__wrapped__)


def test_a_hundred_an_hour_for_each_user(backend: Backend, get: Get) -> None:
    view = fresh(account)
    statuses = [view(get(user=1)).status_code for _ in range(101)]
    assert statuses == [200] * 100 + [429]
    assert view(get(user=2)).status_code == 200
    assert 0 < int(view(get(user=1)).headers["Retry-After"]) <= 3600


def test_a_broken_store_is_left_alone_and_the_view_answers(backend: Backend, get: Get) -> None:
    view = fresh(account)
    with failing(backend) as asked:
        assert [view(get(user=1)).status_code for _ in range(20)] == [200] * 20
    assert 1 <= len(asked) <= 2, "once for each store, not for each request"


# Usage: manual


def test_an_external_service_and_what_to_do_without_it(backend: Backend, upstream: Upstream) -> None:
    @circuit_breaker(name="external", failure_threshold=3)
    def fetch() -> str:
        return upstream()

    def fetch_or_remember() -> str:
        try:
            return fetch()
        except CircuitBreakerError:
            return "remembered"

    calls_fail(fetch_or_remember, 3)
    assert [fetch_or_remember() for _ in range(5)] == ["remembered"] * 5
    assert upstream.calls == 3


# Usage: status and manual control


def test_status_and_control_of_the_configured_backend(backend: Backend, clock: ManualClock) -> None:
    assert get_backend() is backend
    health = backend.get_backend_health_status()
    assert health["backend_class"] == type(backend).__name__
    assert health["circuit_breaker_enabled"] is True
    assert health["circuit_breaker_available"] is True
    assert health["healthy"] is True
    status = status_of(backend)
    assert (status["state"], status["failure_count"], status["failure_threshold"]) == ("closed", 0, 5)
    assert health["circuit_breaker"] == status

    with failing(backend):
        incr_fails(backend, 2)
        assert status_of(backend)["failure_count"] == 2
        incr_fails(backend, 3)
    status = status_of(backend)
    assert (status["state"], status["failure_count"]) == ("open", 5)
    assert status["last_failure_time"] == clock.now / SECOND
    assert backend.get_backend_health_status()["healthy"] is False

    backend.reset_circuit_breaker()
    assert backend.is_circuit_breaker_enabled()
    assert status_of(backend)["state"] == "closed"
    assert backend.incr("user:1", 60) == 1


def test_the_backend_that_is_there_when_nothing_is_configured() -> None:
    backend = get_backend()
    health = backend.get_backend_health_status()
    assert (health["backend_class"], health["circuit_breaker_enabled"]) == ("MemoryBackend", True)
    assert status_of(backend)["state"] == "closed"
    backend.reset_circuit_breaker()
    assert backend.is_circuit_breaker_enabled()


# Error handling


def test_a_refused_incr_says_who_refuses_and_until_when(backend: Backend, clock: ManualClock) -> None:
    with failing(backend) as asked:
        incr_fails(backend, 5)
        last = len(asked)
        began = clock.now / SECOND
        clock.advance(20)
        with pytest.raises(CircuitBreakerError) as caught:
            backend.incr("user:1", 60)
        assert len(asked) == last, "the store was not asked"
    error = caught.value
    assert error.breaker_name == backend.name
    assert error.state == "open"
    assert error.failure_count == 5
    assert error.last_failure_time == began
    assert error.next_attempt_time == began + 60
    assert error.recovery_time == 60
    assert error.retry_after == 40


# Graceful degradation


@rate_limit(key="user", rate="100/h")
def order(request: HttpRequest) -> JsonResponse:
    try:
        CircuitBreaker("warehouse").call(request.warehouse)  # type: ignore[attr-defined] # set by the test
    except CircuitBreakerError as error:
        return JsonResponse({"error": "no warehouse", "retry_after": error.retry_after}, status=503)
    return JsonResponse({"ordered": True})


def test_a_view_that_does_without(backend: Backend, upstream: Upstream, get: Get) -> None:
    CircuitBreaker("warehouse", failure_threshold=2)
    view, request = fresh(order), get(user=1)
    request.warehouse = upstream  # type: ignore[attr-defined] # as above
    calls_fail(lambda: view(request), 2)
    response = view(request)
    assert response.status_code == 503
    assert 59 < json.loads(response.content)["retry_after"] <= 60


def count_or_nothing(key: str) -> int:
    try:
        return get_backend().get_count(key)
    except CircuitBreakerError:
        return 0


def test_a_count_that_does_without(backend: Backend) -> None:
    assert [backend.incr("user:1", 60) for _ in range(3)] == [1, 2, 3]
    assert count_or_nothing("user:1") == 3
    with failing(backend):
        incr_fails(backend, 5)
        assert count_or_nothing("user:1") == 0
    backend.reset_circuit_breaker()
    assert count_or_nothing("user:1") == 3


# Monitoring and health checks


def how_it_goes() -> dict[str, Any]:
    states = [status["state"] for status in circuit_breaker_registry.get_all_status().values()]
    return {"total": len(states), "failing": states.count("open"), "healthy": "open" not in states}


def test_all_breakers_and_a_health_check(backend: Backend, upstream: Upstream) -> None:
    CircuitBreaker("payments").call(lambda: None)
    assert how_it_goes() == {"total": 1, "failing": 0, "healthy": True}
    calls_fail(CircuitBreaker("warehouse", failure_threshold=2)(upstream), 2)
    seen = {name: (s["state"], s["failure_count"]) for name, s in circuit_breaker_registry.get_all_status().items()}
    assert seen == {"payments": ("closed", 0), "warehouse": ("open", 2)}
    assert how_it_goes() == {"total": 2, "failing": 1, "healthy": False}
    circuit_breaker_registry.reset_all()
    assert how_it_goes() == {"total": 2, "failing": 0, "healthy": True}


# Examples: environments

PRODUCTION = {"failure_threshold": 10, "recovery_timeout": 30, "exponential_backoff_max": 180}
CRITICAL = {"failure_threshold": 3, "recovery_timeout": 120, "exponential_backoff_max": 600}
DEVELOPMENT = {"failure_threshold": 1, "recovery_timeout": 5}


@pytest.mark.parametrize(
    ("config", "waits"),
    [(PRODUCTION, [30, 60, 120, 180, 180]), (CRITICAL, [120, 240, 480, 600]), (DEVELOPMENT, [5, 10, 20])],
    ids=["production", "critical", "development"],
)
def test_settings_for_environments(
    backend: Backend, clock: ManualClock, upstream: Upstream, config: dict[str, Any], waits: list[int]
) -> None:
    breaker = CircuitBreaker("upstream", clock=clock, **config)
    calls_fail(breaker(upstream), config["failure_threshold"] - 1)
    assert breaker.state == "closed"
    for wait in waits:
        calls_fail(breaker(upstream), 1)
        assert breaker.get_status()["backoff_time"] == wait
        clock.advance(wait)


# Examples: several backends


def entries() -> list[dict[str, Any]]:
    return [
        {
            "type": "ratelimit_core.backends.redis_backend.RedisBackend",
            "name": "first",
            "options": {"enable_circuit_breaker": True, "circuit_breaker_config": {"failure_threshold": 5}},
        },
        {
            "type": "ratelimit_core.backends.memory.MemoryBackend",
            "name": "second",
            "options": {"enable_circuit_breaker": True, "circuit_breaker_config": {"failure_threshold": 10}},
        },
    ]


def test_several_backends_by_their_dotted_paths(get: Get) -> None:
    with override_settings(RATELIMIT_BACKENDS=entries(), RATELIMIT_REDIS={"host": "127.0.0.1", "port": free_port()}):
        configured.forget()
        whole = get_backend()
        assert isinstance(whole, MultiBackend)
        first, second = get_backend("first"), get_backend("second")
        assert whole.backends == (first, second)
        assert (type(first), type(second)) == (RedisBackend, MemoryBackend)
        assert [status_of(each)["failure_threshold"] for each in (first, second)] == [5, 10]

        # Nobody listens where the first should be, so the second answers; after one failure it is asked at once.
        assert [whole.incr("user:1", 60) for _ in range(7)] == list(range(1, 8))
        assert [status_of(each)["failure_count"] for each in (first, second)] == [1, 0]
        assert [part["healthy"] for part in whole.get_backend_health_status()["backends"]] == [False, True]
        with failing(second):
            incr_fails(second, 9)
            assert status_of(second)["state"] == "closed"
            incr_fails(second, 1)
            assert status_of(second)["state"] == "open"
        second.reset_circuit_breaker()
        assert fresh(account)(get(user=1)).status_code == 200
    first.close()


def test_the_first_is_used_while_it_answers(valkey_url: str) -> None:
    port = int(valkey_url.rpartition(":")[2].partition("/")[0])
    with override_settings(
        RATELIMIT_BACKENDS=entries(),
        RATELIMIT_REDIS={"host": "127.0.0.1", "port": port},
        RATELIMIT_KEY_PREFIX="spec-multi",
    ):
        configured.forget()
        assert get_backend().incr("user:1", 60) == 1
        assert get_backend("first").get_count("user:1") == 1
        assert get_backend("second").get_count("user:1") == 0
        get_backend().clear()
        get_backend().close()


def test_the_first_is_where_redis_is_by_default(apart: str) -> None:
    with override_settings(RATELIMIT_BACKENDS=entries()):
        configured.forget()
        assert [get_backend().incr("user:1", 60) for _ in range(2)] == [1, 2]
        assert get_backend("first").get_count("user:1") == 2
        assert get_backend("second").get_count("user:1") == 0
        get_backend().close()


# Testing


class TestWithTheFixtureOfThePage:
    """The first test leaves an open breaker behind; the second must not see it."""

    @pytest.fixture(autouse=True)
    def clean(self, backend: Backend) -> Iterator[None]:
        circuit_breaker_registry.reset_all()
        circuit_breaker_registry._breakers.clear()
        yield
        circuit_breaker_registry.reset_all()
        circuit_breaker_registry._breakers.clear()

    @pytest.mark.parametrize("again", [False, True])
    def test_each_test_begins_closed(self, upstream: Upstream, again: bool) -> None:
        assert circuit_breaker_registry.get_all_status() == {}
        calls_fail(circuit_breaker(name="upstream", failure_threshold=1)(upstream), 1)
        assert circuit_breaker_registry.get_all_status()["upstream"]["state"] == "open"


def test_what_was_reset_is_closed_when_it_is_defined_again(backend: Backend, upstream: Upstream) -> None:
    calls_fail(circuit_breaker(name="upstream", failure_threshold=1)(upstream), 1)
    circuit_breaker_registry.reset_all()
    circuit_breaker_registry._breakers.clear()
    assert CircuitBreaker("upstream", failure_threshold=7).state == "closed"


def test_a_backend_opens_on_failures(make: Make) -> None:
    backend = make(enable_circuit_breaker=True)
    with failing(backend):
        for _ in range(5):
            with pytest.raises(Exception, match="the store is broken"):
                backend.incr("test", 60)
        with pytest.raises(CircuitBreakerError):
            backend.incr("test", 60)


# Common issues


def test_stuck_open(make: Make, clock: ManualClock) -> None:
    backend = make()
    with failing(backend):
        incr_fails(backend, 5)
    assert status_of(backend)["next_attempt_time"] == clock.now / SECOND + 60
    backend.reset_circuit_breaker()
    assert status_of(backend)["next_attempt_time"] is None
    assert backend.incr("user:1", 60) == 1


def test_too_sensitive(make: Make) -> None:
    backend = make(circuit_breaker_config={"failure_threshold": 10})
    with failing(backend):
        incr_fails(backend, 9)
        assert status_of(backend)["state"] == "closed"
        incr_fails(backend, 1)
        assert status_of(backend)["state"] == "open"


def test_too_slow_to_recover(make: Make, clock: ManualClock) -> None:
    backend = make(circuit_breaker_config={"recovery_timeout": 30})
    with failing(backend):
        incr_fails(backend, 5)
    clock.advance(29.999)
    with pytest.raises(CircuitBreakerError):
        backend.incr("user:1", 60)
    clock.advance(0.001)
    assert backend.incr("user:1", 60) == 1
