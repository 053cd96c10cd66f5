"""A breaker in the shadow decides and reports as always, and refuses nobody."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from ratelimit_core import CircuitBreaker, circuit_breaker_registry, configure
from ratelimit_core.backends import Backend, RedisBackend
from ratelimit_core.events import Event, StateChanged
from ratelimit_core.testing import ManualClock
from tests.circuit_breaker.fleet import Fleet, ask, fail, probe, refused, succeed
from tests.servers import PATIENT


@pytest.fixture(params=["configured", "forced"])
def how(request: pytest.FixtureRequest) -> str:
    """By the configuration of each process, or by a person's word for all."""
    return str(request.param)


def in_shadow(fleet: Fleet, how: str, **options: Any) -> CircuitBreaker:
    breaker = fleet.process(**options, shadow=how == "configured")
    if how == "forced":
        breaker.shadow()
    return breaker


def changes(happened: list[Event]) -> list[tuple[str, bool]]:
    return [(event.new, event.shadow) for event in happened if isinstance(event, StateChanged)]


def test_nobody_is_refused_and_everything_is_reported(fleet: Fleet, how: str, happened: list[Event]) -> None:
    breaker = in_shadow(fleet, how, failure_threshold=3)
    fail(breaker, 3)
    assert breaker.state == "open"
    succeed(breaker, 50)
    assert breaker.state == "open", "what it would not have let through says nothing"
    fleet.clock.advance(60)
    probe(breaker).success()
    assert breaker.state == "closed"
    assert changes(happened) == [("open", True), ("half_open", True), ("closed", True)]
    told = [(entry["event"], entry["shadow"]) for entry in breaker.history()][:3]
    assert told == [("closed", True), ("half_open", True), ("opened", True)]


def test_what_opened_in_the_shadow_and_what_did_not_can_be_told_apart(fleet: Fleet, how: str) -> None:
    breaker = in_shadow(fleet, how, failure_threshold=1)
    fail(breaker)
    assert (breaker.state, breaker.get_status()["shadow"]) == ("open", True)
    breaker.reset()
    real = fleet.process(failure_threshold=1)
    fail(real)
    assert (real.state, real.get_status()["shadow"]) == ("open", False)
    opened = [entry["shadow"] for entry in real.history() if entry["event"] == "opened"]
    assert opened == [False, True]


@pytest.mark.parametrize("mode", ["force_open", "force_closed", "disable"])
def test_a_mode_that_goes_before_the_shadow_is_none(fleet: Fleet, mode: str) -> None:
    breaker = fleet.process(shadow=True)
    getattr(breaker, mode)()
    assert breaker.get_status()["shadow"] is False


def test_a_process_that_does_not_know_the_settings_does_not_know_of_their_shadow(
    store: Backend, clock: ManualClock
) -> None:
    fleet = Fleet(store, clock)
    configure(backend=store)
    fail(fleet.process("configured", failure_threshold=1, shadow=True))
    fleet.process("forced").shadow()
    fail(fleet.process("real", failure_threshold=1))
    known = circuit_breaker_registry.get_fleet_status()
    circuit_breaker_registry._breakers.clear()
    unknown = circuit_breaker_registry.get_fleet_status()
    assert [known[name]["shadow"] for name in ("forced", "real")] == [True, False]
    assert [unknown[name]["shadow"] for name in ("configured", "forced", "real")] == [None, True, None]


def test_it_probes_as_many_as_it_would_and_lets_the_others_through(fleet: Fleet, how: str) -> None:
    breaker = in_shadow(fleet, how, failure_threshold=1, half_open_max_calls=2, cache_ttl=0)
    fail(breaker)
    fleet.clock.advance(60)
    permits = [breaker.acquire() for _ in range(5)]
    assert [permit.probe for permit in permits] == [True, True, False, False, False]
    assert breaker.get_status()["half_open_calls"] == 2


def test_a_failed_probe_opens_it_for_longer(fleet: Fleet, how: str) -> None:
    breaker = in_shadow(fleet, how, failure_threshold=1)
    fail(breaker)
    fleet.clock.advance(60)
    probe(breaker).failure()
    status = breaker.get_status()
    assert (status["state"], status["backoff_time"]) == ("open", 120)


def test_it_counts_what_it_would_have_refused(fleet: Fleet, how: str) -> None:
    breaker = in_shadow(fleet, how, failure_threshold=1)
    succeed(breaker, 5)
    fail(breaker)
    for _ in range(10):  # on what is known, and asked anew
        succeed(breaker, 10)
        fleet.clock.advance(1)
    assert breaker.stats == {"successes": 105, "failures": 1, "rejections": 0, "shadow_rejections": 100}
    fleet.clock.advance(60)
    succeed(breaker, 10)  # the first is the probe, and closes it
    assert breaker.stats["shadow_rejections"] == 100


def test_a_failure_that_would_have_been_refused_says_nothing(fleet: Fleet, how: str, happened: list[Event]) -> None:
    breaker = in_shadow(fleet, how, failure_threshold=1)
    fail(breaker, 20)
    assert changes(happened) == [("open", True)]
    assert breaker.get_status()["backoff_time"] == 60


def test_a_failure_in_the_shadow_waits_for_nobody(fleet: Fleet, how: str) -> None:
    breaker = in_shadow(fleet, how, failure_threshold=1)
    assert breaker.acquire().failure() == 0, "the seconds until it makes sense to call again"


def test_a_ramp_refuses_nobody_either(fleet: Fleet, how: str) -> None:
    breaker = in_shadow(fleet, how, failure_threshold=1, slow_start=60, cache_ttl=0)
    fail(breaker)
    fleet.clock.advance(60)
    probe(breaker).success()
    succeed(breaker, 100)


def test_one_process_in_the_shadow_and_one_that_is_not_share_one_breaker(fleet: Fleet) -> None:
    """A deploy that takes it out of the shadow, half done."""
    shadow, real = fleet.process(failure_threshold=1, shadow=True), fleet.process(failure_threshold=1)
    succeed(real)
    fail(shadow)
    fleet.clock.advance(0.25)
    assert ask(shadow)
    refused(real)
    fleet.clock.advance(60)
    probe(real).success()
    assert shadow.state == "closed"


@pytest.mark.parametrize("how", ["configured", "shadow", "force_closed", "disable"])
@pytest.mark.parametrize("state", ["closed", "failing", "open"])
def test_what_refuses_nobody_costs_no_more_than_a_closed_one(
    valkey_url: str, clock: ManualClock, how: str, state: str
) -> None:
    backend = RedisBackend(valkey_url, key_prefix="test-shadow", clock=clock, **PATIENT)
    with redis.Redis.from_url(valkey_url) as client:

        def asked() -> int:
            stats: Any = client.info("commandstats")
            return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("eval", "evalsha"))

        breaker = Fleet(backend, clock).process(failure_threshold=2, recovery_timeout=3600, shadow=how == "configured")
        succeed(breaker)
        fail(breaker, {"closed": 0, "failing": 1, "open": 2}[state])
        if how != "configured":
            getattr(breaker, how)()
        before = asked()
        for _ in range(1000):
            succeed(breaker)
            clock.advance(0.01)
        assert asked() - before <= 52, "in 10 seconds"
    backend.clear()
    backend.close()
