"""After closing, calls are let through with a chance that rises from a tenth to one."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from ratelimit_core import CircuitBreaker, CircuitBreakerError
from ratelimit_core.backends import Call, MemoryBackend
from ratelimit_core.circuit_breaker.breaker import cache_of
from ratelimit_core.circuit_breaker.operator import read_record
from ratelimit_core.events import Event
from ratelimit_core.policies import Verdict
from ratelimit_core.testing import ManualClock
from tests.circuit_breaker.fleet import Fleet, ask, fail, probe, refused, succeed


@pytest.fixture(autouse=True)
def luck(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same in every run."""
    dice = random.Random(42)
    for module in ("acquire", "cache"):
        monkeypatch.setattr(f"ratelimit_core.circuit_breaker.{module}.random", dice)


def closed_again(fleet: Fleet, **options: Any) -> CircuitBreaker:
    """A breaker that has just closed."""
    breaker = fleet.process(failure_threshold=1, recovery_timeout=60, **options)
    fail(breaker)
    fleet.clock.advance(60)
    probe(breaker).success()
    assert breaker.state == "closed"
    return breaker


def refused_by_chance(breaker: CircuitBreaker) -> CircuitBreakerError:
    while True:
        try:
            breaker.acquire()
        except CircuitBreakerError as error:
            return error


def share(breaker: CircuitBreaker, calls: int = 400) -> float:
    return sum(ask(breaker) is not None for _ in range(calls)) / calls


@pytest.mark.parametrize("who", ["the process that closed it", "another"])
def test_the_share_rises_from_a_tenth_to_all(clock: ManualClock, who: str) -> None:
    fleet = Fleet(MemoryBackend(clock=clock), clock)
    breaker = closed_again(fleet, slow_start=100)
    if who == "another":
        breaker = fleet.process(failure_threshold=1, slow_start=100)
    shares = []
    for _ in range(10):
        shares.append(share(breaker))
        clock.advance(10)
    for percent, seen in zip((10, 10, 20, 30, 40, 50, 60, 70, 80, 90), shares, strict=True):
        assert abs(seen - percent / 100) < 0.08, shares
    assert share(breaker) == 1


@pytest.mark.every_store
def test_every_store_ramps(fleet: Fleet) -> None:
    breaker = closed_again(fleet, slow_start=100)
    assert 0 < share(breaker, 100) < 0.3
    fleet.clock.advance(100)
    assert share(breaker, 20) == 1


def test_who_looks_lets_nobody_in(clock: ManualClock) -> None:
    breaker = closed_again(Fleet(MemoryBackend(clock=clock), clock), slow_start=100, cache_ttl=10)
    allowed = 0
    for _ in range(100):
        assert breaker.peek(refresh=True)[0] == "closed"
        allowed += ask(breaker) is not None
    assert 0 < allowed < 30


def test_a_refusal_says_so_and_when_to_come_back(clock: ManualClock) -> None:
    breaker = closed_again(Fleet(MemoryBackend(clock=clock), clock), slow_start=100)
    error = refused_by_chance(breaker)
    assert (error.state, error.next_attempt_time) == ("slow_start", None)
    assert 0 < error.retry_after <= 10.1
    assert str(error).startswith("'upstream' slow-start, retry in")
    clock.advance(99)
    assert refused_by_chance(breaker).retry_after <= 1.000_001
    assert breaker.state == "closed"


def test_no_ramp_at_the_very_beginning_or_after_a_reset(clock: ManualClock) -> None:
    fleet = Fleet(MemoryBackend(clock=clock), clock)
    assert share(fleet.process(slow_start=100)) == 1
    breaker = closed_again(fleet, slow_start=100)
    breaker.reset()
    assert share(breaker) == 1


def test_its_closing_opens_no_gap(clock: ManualClock) -> None:
    """A report, unlike a question, is not told that it ramps up: nothing may be let through on it."""
    breaker = closed_again(Fleet(MemoryBackend(clock=clock), clock), slow_start=100, cache_ttl=10)
    for _ in range(5):
        permit = None
        while permit is None:
            permit = ask(breaker)
        permit.cancel()
        assert share(breaker, 100) < 0.3


def test_a_failure_and_the_success_after_it_open_no_gap(clock: ManualClock) -> None:
    fleet = Fleet(MemoryBackend(clock=clock), clock)
    closed_again(fleet, slow_start=100)
    breaker = fleet.process(failure_threshold=50, slow_start=100, cache_ttl=10)
    for outcome in ("failure", "success") * 3:
        permit = None
        while permit is None:
            permit = ask(breaker)
        getattr(permit, outcome)()
        assert share(breaker, 100) < 0.35, f"after a {outcome}"


def test_successes_are_counted_although_the_next_question_is_refused(clock: ManualClock) -> None:
    """What a refused question carries is written nowhere, and has to be carried again."""
    fleet = Fleet(MemoryBackend(clock=clock), clock)
    closed_again(fleet, slow_start=100)
    breaker = fleet.process(failure_threshold=10**6, failure_rate=1, minimum_calls=10**6, slow_start=100)
    answered = 0
    for _ in range(1000):
        if permit := ask(breaker):
            permit.success()
            answered += 1
    assert answered > 50
    while not (permit := ask(breaker)):
        pass
    permit.failure()
    record = read_record(cache_of(breaker))
    assert (record.calls, record.failed) == (answered + 1, 1)


def test_an_opening_during_the_ramp_is_one(clock: ManualClock, happened: list[Event]) -> None:
    breaker = closed_again(Fleet(MemoryBackend(clock=clock), clock), slow_start=100)
    while not (permit := ask(breaker)):
        pass
    permit.failure()
    assert (refused(breaker).state, breaker.get_status()["backoff_time"]) == ("open", 120)


def test_it_asks_for_every_call_only_while_it_ramps(clock: ManualClock) -> None:
    class Counting(MemoryBackend):
        asked = 0

        def _apply(self, calls: Sequence[Call]) -> list[Verdict]:
            self.asked += 1
            return super()._apply(calls)

    backend = Counting(clock=clock)
    breaker = closed_again(Fleet(backend, clock), slow_start=100)
    clock.advance(50)
    backend.asked = 0
    share(breaker, 20)
    assert backend.asked == 20
    clock.advance(50)
    backend.asked = 0
    succeed(breaker, 20)
    assert backend.asked == 1
