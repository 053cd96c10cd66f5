"""What the interpreter does for the calls that are made most often."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory

from ratelimit_core import CircuitBreaker, CircuitBreakerError, Limiter
from ratelimit_core.backends import MemoryBackend
from ratelimit_core.django.decorators import rate_limit
from ratelimit_core.testing import ManualClock
from tests import databases

from .meter import Instructions, blocks_kept, instructions, nothing

pytestmark = pytest.mark.timed


@pytest.fixture(autouse=True, scope="module")
def with_django() -> None:
    """When it runs: other tests have Django with settings of their own, if they are there."""
    databases.setup()


@pytest.fixture
def backend(clock: ManualClock) -> MemoryBackend:
    return MemoryBackend(clock=clock)


@pytest.fixture
def closed(backend: MemoryBackend, clock: ManualClock) -> Callable[[], object]:
    """A function behind a closed breaker that is known to be so."""
    return CircuitBreaker("closed", cache_ttl=10, backend=backend, clock=clock)(nothing)


@pytest.fixture
def refused(backend: MemoryBackend, clock: ManualClock) -> Callable[[], object]:
    """A call of a function behind an open breaker."""
    breaker = CircuitBreaker("open", failure_threshold=1, cache_ttl=10, backend=backend, clock=clock)
    breaker.acquire().failure()
    guarded = breaker(nothing)

    def call() -> None:
        with suppress(CircuitBreakerError):
            guarded()

    return call


def at_most(most: int, found: Instructions) -> None:
    assert found.number <= most, f"it took {most} instructions at most, and takes {found}"


def test_a_call_through_a_closed_breaker(closed: Callable[[], object]) -> None:
    at_most(74, instructions(closed).beyond(instructions(nothing)))


def test_a_call_that_an_open_breaker_refuses(refused: Callable[[], object]) -> None:
    at_most(224, instructions(refused))


@pytest.mark.parametrize(
    ("algorithm", "most"),
    [("token_bucket", 309), ("sliding_window", 407), ("fixed_window", 277), ("sliding_window_counter", 347)],
)
def test_a_check_in_memory(backend: MemoryBackend, algorithm: Any, most: int) -> None:
    at_most(most, instructions(Limiter("100/s", key="one", algorithm=algorithm, backend=backend).hit))


def test_a_check_of_five_limits_in_memory(backend: MemoryBackend) -> None:
    rate = "100/s;200/m;300/h;400/d;500/2d"
    at_most(3290, instructions(Limiter(rate, key="five", algorithm="token_bucket", backend=backend).hit))


def test_a_view_with_a_limit_in_memory(backend: MemoryBackend) -> None:
    def view(request: HttpRequest) -> HttpResponse:
        return HttpResponse()

    limited = rate_limit("ip", "100/s", backend=backend, algorithm="token_bucket", scope="view")(view)
    of_limiter = Limiter("100/s", key="alone", algorithm="token_bucket", backend=backend).hit
    request = RequestFactory().get("/")

    def call() -> object:
        vars(request).pop("_rate_limits", None)  # as if it were another
        return limited(request)

    found = instructions(call).beyond(instructions(lambda: view(request)))
    at_most(528, found.beyond(instructions(of_limiter)))


@pytest.mark.parametrize("state", ["closed", "refused"])
def test_ten_thousand_calls_keep_no_memory(state: str, request: pytest.FixtureRequest) -> None:
    call = request.getfixturevalue(state)
    for _ in range(1000):  # counters are small numbers at first, which take no memory
        call()
    kept = blocks_kept(call)
    assert kept <= 0, f"{kept} blocks of memory are kept after 10,000 calls"
