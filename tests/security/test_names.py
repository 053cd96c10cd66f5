"""Whatever a name holds, it names one thing: nothing is executed, nothing collides, nothing is lost."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory

from ratelimit_core import CircuitBreaker, ConfigurationError, Limiter, RateLimitExceeded, configure
from ratelimit_core._util.text import printable
from ratelimit_core.backends import Backend, DatabaseBackend, MemoryBackend, RedisBackend
from ratelimit_core.circuit_breaker import circuit_breaker_registry
from ratelimit_core.django.decorators import rate_limit
from ratelimit_core.policies import BREAKER
from ratelimit_core.protocol.names import escape
from ratelimit_core.testing import ManualClock
from resilient_tasks import rate_limited_task
from resilient_tasks.worker import commands
from tests.security.names import HOSTILE
from tests.servers import PATIENT

NAMES = list(HOSTILE.values())


def fine(request: HttpRequest) -> HttpResponse:
    return HttpResponse("fine")


@pytest.fixture
def canary(store: Backend) -> Callable[[], bool]:
    """Whether what was there before is there still."""
    limiter = Limiter("5/h", key="canary", algorithm="fixed_window", backend=store)
    limiter.hit()
    return lambda: limiter.peek().remaining == 4


@pytest.mark.every_store
def test_each_names_a_breaker_of_its_own(store: Backend, canary: Callable[[], bool]) -> None:
    family = CircuitBreaker("{name}", backend=store, failure_threshold=1)
    breakers = [family.bind(name=name) for name in NAMES]
    for i, breaker in enumerate(breakers):
        if i % 2:
            breaker.force_open("ann", reason=f"number {i}")
        else:
            breaker.acquire().success()
    for i, breaker in enumerate(breakers):
        assert breaker.state == ("open" if i % 2 else "closed")
        assert [entry["reason"] for entry in breaker.history()] == ([f"number {i}"] if i % 2 else [])
    listed = [name for name, _ in store.keys(BREAKER)]
    assert sorted(map(escape, listed)) == sorted(map(escape, NAMES))
    for key in store.keys(BREAKER):  # what a listing says is enough to find it again
        store.delete(BREAKER, [key])
    assert store.keys(BREAKER) == []
    assert canary()


@pytest.mark.every_store
def test_who_said_what_is_kept_as_it_was_said(store: Backend) -> None:
    breaker = CircuitBreaker("payments", backend=store)
    texts = [text for text in NAMES if len(text) <= 1000]
    for text in texts:
        breaker.force_open(author=text, reason=text)
        status = breaker.get_status()
        assert (status["author"], status["reason"]) == (text, text)
    assert [entry["reason"] for entry in breaker.history()] == texts[::-1]
    breaker.force_open(author=NAMES[-1])
    assert breaker.history()[0]["author"] == NAMES[-1][:1000]


@pytest.mark.parametrize("algorithm", ["sliding_window", "sliding_window_counter", "fixed_window", "token_bucket"])
def test_each_has_a_count_of_its_own(store: Backend, canary: Callable[[], bool], algorithm: Any) -> None:
    limiter = Limiter("9/h", key="all", algorithm=algorithm, backend=store)
    for i, name in enumerate(NAMES):
        assert limiter.hit(1 + i % 5, key=name)
    assert [limiter.peek(key=name).remaining for name in NAMES] == [8 - i % 5 for i in range(len(NAMES))]
    for name in NAMES[::2]:
        limiter.reset(key=name)
    left = [limiter.peek(key=name).remaining for name in NAMES]
    assert left == [8 - i % 5 if i % 2 else 9 for i in range(len(NAMES))]
    assert canary()


def test_each_has_places_and_slots_of_its_own(store: Backend) -> None:
    places = Limiter(key="all", concurrency=1, backend=store)
    slots = Limiter("1/h", key="all", backend=store)
    for name in NAMES:
        place, slot = places.hit(key=name), slots.reserve(0, key=name)
        assert (place.allowed, places.hit(key=name).allowed, slot.allowed) == (True, False, True)
        places.release(place, key=name)
        assert places.peek(key=name).remaining == 1
        assert slots.redeem(slot, key=name)
        assert not slots.hit(key=name)


@pytest.mark.parametrize("kind", ["redis", "database"])
def test_a_prefix_is_no_pattern_and_ends_where_it_ends(kind: str, valkey_url: str, sqlite: str) -> None:
    def of(prefix: str) -> Backend:
        if kind == "redis":
            return RedisBackend(valkey_url, key_prefix=prefix, **PATIENT)
        return DatabaseBackend(sqlite, key_prefix=prefix)

    stores = [of(prefix) for prefix in (*HOSTILE.values(), "pay", "pay:index", "pay*", "PAY")]
    limiters = [Limiter("9/h", key="x", algorithm="fixed_window", backend=each) for each in stores]
    for limiter in limiters:
        assert limiter.hit()
    for i, each in enumerate(stores):
        each.clear()
        assert [limiter.peek().remaining for limiter in limiters] == [9] * (i + 1) + [8] * (len(stores) - i - 1)
        each.close()


def test_each_is_a_client_of_its_own_to_a_view(requests: RequestFactory, clock: ManualClock) -> None:
    view = rate_limit(lambda request: request.who, "1/h", backend=MemoryBackend(clock=clock))(fine)
    for status in (200, 429):
        for name in NAMES:
            request: Any = requests.get("/")
            request.who = name
            assert view(request).status_code == status


@pytest.mark.parametrize("key", ["header:x-who", "get:who", "post:who"])
def test_what_a_client_sends_never_becomes_somebody_elses(
    requests: RequestFactory, key: str, clock: ManualClock
) -> None:
    view = rate_limit(key, "1/h", backend=MemoryBackend(clock=clock))(fine)
    sent = [name for name in NAMES if name.isprintable() and len(name) < 1000]  # what a server lets through
    for status in (200, 429):
        for name in sent:
            request: Any = requests.post("/", {"who": name})
            request.META |= {"HTTP_X_WHO": name}
            request.GET = {"who": name}
            assert view(request).status_code == status


def test_each_is_a_tenant_of_its_own_to_a_task() -> None:
    configure(backend="memory://")

    @rate_limited_task(rate="1/h", rate_key="{tenant}", name="of a tenant")
    def of_a_tenant(tenant: str) -> str:
        return tenant

    for name in NAMES:
        assert of_a_tenant(name) == name
    for name in NAMES:
        with pytest.raises(RateLimitExceeded):
            of_a_tenant(name)


def test_each_may_be_the_name_of_a_task() -> None:
    configure(backend="memory://")

    def body() -> int:
        return 1

    tasks = [rate_limited_task(rate="1/h", name=name)(body) for name in NAMES]
    assert [task() for task in tasks] == [1] * len(NAMES)


def test_a_control_command_is_about_the_breaker_that_it_names_and_no_other(clock: ManualClock) -> None:
    store = MemoryBackend(clock=clock)
    configure(backend=store)
    for i, name in enumerate(NAMES):
        answer: Any = commands.breaker_open(SimpleNamespace(), name, reason=name[:100], author=name[:100])
        if "error" in answer:  # a template, which stands for many
            with pytest.raises(ConfigurationError):
                assert CircuitBreaker(name).state
        else:
            assert len(store.keys(BREAKER)) == len(circuit_breaker_registry.get_fleet_status())
            assert CircuitBreaker(name).state == "open", i
    assert len(store.keys(BREAKER)) >= len(NAMES) - 3


def test_a_client_that_is_called_as_the_template_is_shown_with_the_others() -> None:
    configure(backend="memory://")
    family = CircuitBreaker("payments:{tenant}", failure_threshold=3)
    for tenant in ("a", "{tenant}"):
        family.bind(tenant=tenant).acquire().success()
    found = circuit_breaker_registry.get_fleet_status()
    assert {name: status["failure_threshold"] for name, status in found.items()} == {
        "payments:a": None,
        "payments:{tenant}": 3,
    }


def test_what_is_shown_is_one_line_and_orders_nobody_about() -> None:
    for name in NAMES[:-2]:
        shown = printable(name)
        assert shown.isprintable() or not shown
        assert len(shown.splitlines()) <= 1
