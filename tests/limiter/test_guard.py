"""A breaker and limits, asked as one: by threads that wait, and in an event loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ratelimit_core import CircuitBreaker, CircuitBreakerError, ConfigurationError, Limiter, RateLimitExceeded
from ratelimit_core.backends import Backend, MemoryBackend
from ratelimit_core.guard import Admission, Guard
from ratelimit_core.testing import ManualClock

from .conftest import Guarding, MakeLimiter


@pytest.fixture
def breaker(store: Backend, clock: ManualClock) -> CircuitBreaker:
    return CircuitBreaker("payments", failure_threshold=1, recovery_timeout=10, cache_ttl=0, backend=store, clock=clock)


def trip(breaker: CircuitBreaker) -> None:
    breaker.acquire().failure()
    assert breaker.state == "open"


def test_leave_is_given_by_all_or_by_none(make: MakeLimiter, breaker: CircuitBreaker, guarding: Guarding) -> None:
    limiter = make("5/s;5/m", concurrency=5)
    guard = guarding(breaker, limiter)
    leave = guard.acquire()
    assert leave.permit is not None
    assert limiter.peek().remaining == 4
    leave.cancel()
    trip(breaker)
    for _ in range(5):
        with pytest.raises(CircuitBreakerError):
            guard.acquire()
    assert limiter.peek().remaining == 4  # an open breaker spends nothing
    assert make(concurrency=5).peek().remaining == 5


def test_a_limit_that_denies_takes_no_probe(
    make: MakeLimiter, breaker: CircuitBreaker, clock: ManualClock, guarding: Guarding
) -> None:
    limiter = make("1/h")
    guard = guarding(breaker, limiter)
    assert limiter.hit()
    trip(breaker)
    clock.advance(10)
    for _ in range(3):
        with pytest.raises(RateLimitExceeded):
            guard.acquire()
    assert breaker.get_status()["half_open_calls"] == 0
    assert breaker.acquire().probe


def test_a_probe_goes_through_the_limits_too(
    make: MakeLimiter, breaker: CircuitBreaker, clock: ManualClock, guarding: Guarding
) -> None:
    limiter = make("5/s", concurrency=1)
    guard = guarding(breaker, limiter)
    trip(breaker)
    clock.advance(10)
    leave = guard.acquire()
    assert leave.permit is not None
    assert leave.permit.probe
    with pytest.raises(CircuitBreakerError):  # where both refuse, the breaker speaks
        guard.acquire()
    leave.record_result("fine")
    assert breaker.state == "closed"
    guard.acquire().cancel()


SETTLING: dict[str, Callable[[Admission], object]] = {
    "record": lambda leave: leave.record(None),
    "record_result": lambda leave: leave.record_result("fine"),
    "fail": lambda leave: leave.fail(ValueError()),
    "cancel": lambda leave: leave.cancel(),
}


@pytest.mark.parametrize("guarded", [True, False])
@pytest.mark.parametrize("settle", SETTLING.values(), ids=SETTLING)
def test_settling_gives_the_place_back_once(
    make: MakeLimiter, breaker: CircuitBreaker, settle: Callable[[Admission], object], guarded: bool, guarding: Guarding
) -> None:
    limiter = make(concurrency=2)
    guard = guarding(breaker if guarded else None, limiter)
    leave, other = guard.acquire(), guard.acquire()
    for _ in range(3):
        settle(leave)
    assert limiter.peek().remaining == 1
    other.cancel()
    assert limiter.peek().remaining == 2


def test_a_failure_counts_as_one_whatever_the_breaker_expects(
    make: MakeLimiter, store: Backend, guarding: Guarding
) -> None:
    breaker = CircuitBreaker("picky", failure_threshold=1, expected_exception=ConnectionError, backend=store)
    guard = guarding(breaker, make("5/s"))
    assert guard.acquire().record(ValueError()) == 0
    assert guard.acquire().fail(ValueError()) == 60
    assert breaker.state == "open"


def test_only_the_first_settling_is_judged(make: MakeLimiter, breaker: CircuitBreaker, guarding: Guarding) -> None:
    leave = guarding(breaker, make("5/s")).acquire()
    leave.record_result("fine")
    assert leave.record(ValueError()) == 0
    assert breaker.state == "closed"
    assert guarding(breaker, make("5/s")).acquire().record(ValueError()) == 10


def test_either_may_be_missing(make: MakeLimiter, breaker: CircuitBreaker, guarding: Guarding) -> None:
    guarding(None, None).acquire().record(ValueError())
    only_limits = guarding(None, make("1/h"))
    assert only_limits.acquire().permit is None
    with pytest.raises(RateLimitExceeded):
        only_limits.acquire()
    only_breaker = guarding(breaker, None)
    assert only_breaker.acquire().record(ValueError()) == 10
    with pytest.raises(CircuitBreakerError):
        only_breaker.acquire()


def test_a_key_and_a_cost_of_the_call(make: MakeLimiter, breaker: CircuitBreaker, guarding: Guarding) -> None:
    guard = guarding(breaker, make("5/h", concurrency=9))
    leave = guard.acquire(key="tenant", cost=5)
    with pytest.raises(RateLimitExceeded) as refused:
        guard.acquire(key="tenant")
    assert refused.value.key == "tenant"
    guard.acquire(key="another", cost=5)
    leave.cancel()
    assert make(concurrency=9, key="tenant").peek().remaining == 9


def test_a_reserved_slot_is_redeemed(
    make: MakeLimiter, breaker: CircuitBreaker, clock: ManualClock, guarding: Guarding
) -> None:
    limiter = make("1/s;100/h", concurrency=1)
    guard = guarding(breaker, limiter)
    guard.acquire().cancel()
    slot = limiter.reserve(60)
    with pytest.raises(RateLimitExceeded) as refused:
        guard.acquire(reservation=slot)
    assert refused.value.reservation_kept
    assert refused.value.retry_after == slot.retry_after == 1
    clock.advance(1)
    guard.acquire(reservation=slot).cancel()
    with pytest.raises(RateLimitExceeded) as refused:
        guard.acquire(reservation=slot)
    assert not refused.value.reservation_kept


def test_who_comes_again_with_a_lease_id_keeps_the_place_but_pays_the_rate(
    make: MakeLimiter, breaker: CircuitBreaker, guarding: Guarding
) -> None:
    limiter = make("3/h", concurrency=1)
    guard = guarding(breaker, limiter)
    guard.acquire(lease_id="task")
    guard.acquire(lease_id="task")
    leave = guard.acquire(lease_id="task")
    with pytest.raises(RateLimitExceeded):
        guard.acquire(lease_id="another task")
    leave.cancel()
    assert make(concurrency=1).peek().remaining == 1
    assert make("3/h").peek().remaining == 0


def test_a_slot_that_is_not_due_denies_nobody_else(
    make: MakeLimiter, breaker: CircuitBreaker, guarding: Guarding
) -> None:
    limiter = make("5/s")
    guard = guarding(breaker, limiter)
    slot = limiter.reserve(60, not_before=30)
    with pytest.raises(RateLimitExceeded):
        guard.acquire(reservation=slot)
    guard.acquire()


def test_a_late_settling_takes_no_place_from_who_came_after(
    make: MakeLimiter, breaker: CircuitBreaker, guarding: Guarding
) -> None:
    limiter = make(concurrency=1)
    guard = guarding(breaker, limiter)
    leave = guard.acquire(lease_id="task")
    leave.cancel()
    guard.acquire(lease_id="task")
    leave.cancel()
    assert not limiter.peek()


def test_a_slot_from_before_the_limit_was_lowered_is_redeemed_at_todays_cost(
    make: MakeLimiter, breaker: CircuitBreaker, clock: ManualClock, guarding: Guarding
) -> None:
    yesterday, today = make("10/s", algorithm="token_bucket"), make("5/s", algorithm="token_bucket")
    assert yesterday.hit(10)
    slot = yesterday.reserve(60, cost=10)
    clock.advance(slot.retry_after)
    guard = guarding(breaker, today)
    guard.acquire(cost=2, reservation=slot)
    assert today.peek().remaining == 3


def test_stores_that_differ_cannot_be_asked_as_one(
    breaker: CircuitBreaker, clock: ManualClock, guarding: Guarding
) -> None:
    elsewhere = Limiter("1/h", key="supplier", backend=MemoryBackend(clock=clock), clock=clock)
    with pytest.raises(ConfigurationError, match=r"'payments'.*'supplier'"):
        guarding(breaker, elsewhere).acquire()
    assert elsewhere.peek()


# What it costs


@pytest.fixture
def healthy(
    shared: Backend, clock: ManualClock, request: pytest.FixtureRequest, guarding: Guarding
) -> Callable[..., Guard]:
    def guard(**limits: Any) -> Guard:
        breaker = CircuitBreaker(request.node.name, failure_threshold=2, backend=shared, clock=clock)
        limiter = Limiter(**{"rate": "100/s;5000/h", "key": "cost", "backend": shared, "clock": clock, **limits})
        guard = guarding(breaker, limiter)
        guard.acquire().cancel()  # the server knows the scripts from now on
        guard.acquire().cancel()
        return guard

    return guard


def test_breaker_and_limits_are_one_round_trip(
    healthy: Callable[..., Guard], clock: ManualClock, round_trips: Callable[[], int]
) -> None:
    guard = healthy(concurrency=8)
    for age in (0.0, 10.0):  # with a breaker that is known, and with one that has to be asked
        clock.advance(age)
        round_trips()
        leave = guard.acquire()
        assert round_trips() == 1
        leave.record_result("fine")
        assert round_trips() == 1  # the place to run


def test_a_denial_still_tells_how_the_breaker_is(
    healthy: Callable[..., Guard], clock: ManualClock, round_trips: Callable[[], int]
) -> None:
    guard = healthy(rate="2/h")
    clock.advance(10)
    with pytest.raises(RateLimitExceeded):
        guard.acquire()
    round_trips()
    assert guard.breaker is not None
    guard.breaker.acquire().success()
    assert round_trips() == 0


def test_a_success_without_a_place_to_give_back_costs_nothing(
    healthy: Callable[..., Guard], round_trips: Callable[[], int]
) -> None:
    leave = healthy().acquire()
    round_trips()
    leave.record_result("fine")
    assert round_trips() == 0


def test_a_refusal_that_is_known_costs_nothing(healthy: Callable[..., Guard], round_trips: Callable[[], int]) -> None:
    guard = healthy(rate="3/h")
    guard.acquire()
    with pytest.raises(RateLimitExceeded):
        guard.acquire()
    round_trips()
    for _ in range(50):
        with pytest.raises(RateLimitExceeded):
            guard.acquire()
    assert round_trips() == 0
    guard = healthy(key="another")
    while not guard.acquire().record(ValueError()):
        pass
    round_trips()
    for _ in range(50):
        with pytest.raises(CircuitBreakerError):
            guard.acquire()
    assert round_trips() == 0


def test_settling_is_at_most_one_round_trip(healthy: Callable[..., Guard], round_trips: Callable[[], int]) -> None:
    guard = healthy(concurrency=8)
    guard.acquire().record(ValueError())  # the server knows this script, too
    guard.acquire().record_result("fine")
    leave = guard.acquire()
    round_trips()
    leave.record(ValueError())
    assert round_trips() == 1
