"""A person's word: forced states, fleet-wide, with author, reason and an end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import redis

from ratelimit_core import BackendError, CircuitBreaker, ConfigurationError
from ratelimit_core.backends import Backend, MemoryBackend, RedisBackend
from ratelimit_core.circuit_breaker import cache, circuit_breaker_registry
from ratelimit_core.events import Event, ModeChanged, StateChanged
from ratelimit_core.policies import BREAKER
from ratelimit_core.store import configured
from ratelimit_core.store.fallback import Store
from ratelimit_core.testing import ManualClock
from tests.backends.faults import FaultyMemory
from tests.circuit_breaker.fleet import Fleet, ask, fail, probe, refused, succeed
from tests.servers import PATIENT

DAY = 24 * 3600
MODES = ["force_open", "force_closed", "disable", "shadow"]
NAMES = {"force_open": "forced_open", "force_closed": "forced_closed", "disable": "disabled", "shadow": "shadow"}
EVENTS = NAMES | {"clear_override": "automatic", "reset": "reset"}

every_mode = pytest.mark.parametrize("mode", MODES)


def force(breaker: CircuitBreaker, mode: str, **options: Any) -> None:
    getattr(breaker, mode)(**options)


def let_through(breaker: CircuitBreaker, calls: int = 20) -> int:
    return sum(ask(breaker) is not None for _ in range(calls))


# What each of them does


def test_forced_open_refuses_everywhere(fleet: Fleet) -> None:
    one, other = fleet.processes(2)
    succeed(one)
    succeed(other)
    one.force_open("ann", "migration")
    assert let_through(one) == 0
    fleet.clock.advance(0.25)
    assert let_through(other) == 0
    fleet.clock.advance(10 * DAY)
    assert let_through(one) == let_through(other) == 0
    assert (one.state, other.state) == ("open", "open")


def test_a_refusal_by_force_says_what_it_knows(fleet: Fleet) -> None:
    breaker = fleet.process(recovery_timeout=42)
    breaker.force_open()
    error = refused(breaker)
    assert (error.state, error.retry_after, error.next_attempt_time, error.failure_count) == ("open", 42, None, 0)
    until = fleet.clock.now / 1_000_000 + 600
    breaker.force_open(ttl=600)
    error = refused(breaker)
    assert (error.retry_after, error.next_attempt_time) == (600, until)


@pytest.mark.parametrize(("ttl", "expected"), [(5, 1000), (2000, 2000), (None, 1000)])
def test_a_refusal_by_force_over_an_opening_says_when_both_have_ended(
    fleet: Fleet, ttl: float | None, expected: float
) -> None:
    breaker = fleet.process(failure_threshold=1, recovery_timeout=1000)
    fail(breaker)
    breaker.force_open(ttl=ttl)
    error = refused(breaker)
    until = None if ttl is None else fleet.clock.now / 1_000_000 + expected
    assert (error.retry_after, error.next_attempt_time) == (expected, until)
    if ttl == 5:
        fleet.clock.advance(6)
        assert refused(breaker).retry_after == 994


def test_forced_closed_refuses_nothing_and_counts(fleet: Fleet, happened: list[Event]) -> None:
    one, other = fleet.processes(2, failure_threshold=3)
    fail(one, 3)
    one.force_closed()
    fleet.clock.advance(1)
    assert let_through(one) == let_through(other) == 20
    one.reset()
    one.force_closed()
    fleet.clock.advance(1)
    for _ in range(5):
        fail(other, 2)
    assert other.get_status()["failure_count"] == 10
    assert other.state == "closed"
    other.clear_override()
    assert other.state == "closed"
    fail(other)
    assert other.state == "open", "the next failure finds the row complete"
    assert [event.new for event in happened if isinstance(event, StateChanged)] == ["open", "open"]


def test_disabled_refuses_nothing_and_counts_nothing(fleet: Fleet) -> None:
    one, other = fleet.processes(2, failure_threshold=3)
    fail(one, 2)
    one.disable()
    fail(one, 20)
    fail(other, 20)
    assert one.get_status()["failure_count"] == 2
    one.clear_override()
    fail(one)
    assert one.state == "open"


def test_shadow_decides_and_refuses_nothing(fleet: Fleet, happened: list[Event]) -> None:
    one, other = fleet.processes(2, failure_threshold=3)
    one.shadow()
    happened.clear()
    fail(one, 3)
    assert [(event.new, event.shadow) for event in happened if isinstance(event, StateChanged)] == [("open", True)]
    fleet.clock.advance(1)
    assert let_through(one) == let_through(other) == 20
    assert one.state == "open"
    one.clear_override()
    assert let_through(one) == 0


def test_automatic_goes_on_from_where_it_stood(fleet: Fleet) -> None:
    breaker = fleet.process(failure_threshold=1)
    fail(breaker)
    breaker.force_closed()
    succeed(breaker, 5)
    fleet.clock.advance(20)
    breaker.clear_override()
    assert refused(breaker).retry_after == 40
    fleet.clock.advance(40)
    probe(breaker).success()
    assert breaker.state == "closed"


@every_mode
def test_a_reset_ends_it_everywhere(fleet: Fleet, mode: str) -> None:
    one, other = fleet.processes(2, failure_threshold=1)
    fail(one)
    force(one, mode)
    ask(other)
    one.reset("ann", "over")
    status = one.get_status()
    assert (status["state"], status["mode"], status["author"], status["failure_count"]) == (
        "closed",
        "automatic",
        "",
        0,
    )
    assert ask(one)
    fleet.clock.advance(1)
    assert ask(other)


def test_one_mode_follows_another(fleet: Fleet) -> None:
    breaker = fleet.process()
    for mode in MODES * 2:
        force(breaker, mode, author=mode)
        status = breaker.get_status()
        assert (status["mode"], status["author"]) == (NAMES[mode], mode)


def test_it_goes_before_a_shadow_of_the_configuration(fleet: Fleet) -> None:
    breaker = fleet.process(shadow=True)
    breaker.force_open()
    refused(breaker)


# For how long


@every_mode
@pytest.mark.every_store
def test_with_a_ttl_it_ends_by_itself_on_the_stores_clock(fleet: Fleet, mode: str) -> None:
    one, other = fleet.processes(2, failure_threshold=1)
    if mode != "force_open":
        fail(one)
    force(one, mode, ttl=30)
    status = other.get_status()
    assert (status["mode"], status["mode_until"]) == (NAMES[mode], fleet.clock.now / 1_000_000 + 30)
    expected = 0 if mode == "force_open" else 20
    fleet.clock.advance(29)
    assert let_through(other) == let_through(one) == expected
    fleet.clock.advance(1)
    assert let_through(other) == let_through(one) == 20 - expected
    status = one.get_status()
    assert (status["mode"], status["mode_until"], status["author"]) == ("automatic", None, "")


@every_mode
@pytest.mark.every_store
def test_until_further_notice_is_longer_than_any_record_is_kept(fleet: Fleet, mode: str) -> None:
    breaker = fleet.process()
    force(breaker, mode, author="ann", reason="for good")
    fleet.clock.advance(3000 * DAY)
    status = fleet.process().get_status()
    assert (status["mode"], status["author"], status["reason"]) == (NAMES[mode], "ann", "for good")


def test_on_a_server_its_record_ends_in_centuries_and_that_of_a_ttl_after_it(valkey_url: str) -> None:
    with redis.Redis.from_url(valkey_url) as client:
        backend = RedisBackend(valkey_url, key_prefix="modes-kept", **PATIENT)
        breaker = CircuitBreaker("kept", backend=backend)

        def lasts() -> int:
            (key,) = client.scan_iter("modes-kept:{kept}:breaker:")
            return int(client.ttl(key))

        breaker.force_open()
        assert lasts() > 100 * 365 * DAY
        ask(breaker)
        assert lasts() > 100 * 365 * DAY
        breaker.force_open(ttl=7 * DAY)
        assert 8 * DAY - 60 < lasts() <= 8 * DAY
        breaker.clear_override()
        assert lasts() <= DAY
        backend.clear()
        backend.close()


NONSENSE = [0, -1, float("nan"), float("inf"), 401 * DAY, "60", True]


@every_mode
@pytest.mark.parametrize("ttl", NONSENSE, ids=repr)
def test_a_ttl_that_makes_no_sense_is_refused_and_changes_nothing(mode: str, ttl: Any) -> None:
    breaker = CircuitBreaker("payments", backend=MemoryBackend())
    with pytest.raises(ConfigurationError, match="ttl="):
        force(breaker, mode, ttl=ttl)
    assert breaker.get_status()["mode"] == "automatic"
    assert breaker.history() == []


@pytest.mark.parametrize("act", [*MODES, "clear_override", "reset"])
@pytest.mark.parametrize("option", ["author", "reason"])
def test_an_author_or_reason_that_is_no_text_is_refused_and_changes_nothing(act: str, option: str) -> None:
    breaker = CircuitBreaker("payments", backend=MemoryBackend(), failure_threshold=1)
    fail(breaker)
    for nonsense in (None, 5, object()):
        with pytest.raises(ConfigurationError, match=f"{option}="):
            force(breaker, act, **{option: nonsense})
    assert breaker.get_status() | {"stats": None} == breaker.get_status() | {"mode": "automatic", "stats": None}
    assert ask(breaker) is None
    assert [entry["event"] for entry in breaker.history()] == ["opened"]


# Who sees it, and when


@pytest.mark.parametrize("before", ["closed", "open"])
def test_others_see_it_within_a_second(fleet: Fleet, before: str) -> None:
    one, other = fleet.processes(2, failure_threshold=1)
    succeed(other)
    if before == "open":
        fail(other)
        one.force_closed()
    else:
        one.force_open()
    fleet.clock.advance(1)
    assert (ask(other) is None) == (before == "closed")


def test_whoever_asks_for_limits_too_sees_it(store: Backend, clock: ManualClock) -> None:
    from ratelimit_core import CircuitBreakerError, Limiter
    from ratelimit_core.guard import Guard

    fleet = Fleet(store, clock)
    operator, worker = fleet.processes(2, cache_ttl=0)
    guard = Guard(worker, Limiter("100/s", key="upstream", backend=store, clock=clock))
    guard.acquire().record(None)
    operator.force_open()
    with pytest.raises(CircuitBreakerError):
        guard.acquire()


def test_the_fleet_status_shows_it_with_its_author(store: Backend, clock: ManualClock) -> None:
    breaker = Fleet(store, clock).process()
    breaker.force_open("ann", "migration", ttl=60)
    configured.configure(backend=store)
    circuit_breaker_registry._breakers.clear()
    found = circuit_breaker_registry.get_fleet_status()["upstream"]
    assert (found["state"], found["mode"], found["author"], found["reason"]) == (
        "open",
        "forced_open",
        "ann",
        "migration",
    )
    assert found["failure_threshold"] is None


@pytest.mark.parametrize("act", [*MODES, "clear_override", "reset"])
def test_each_is_reported_and_kept_with_its_author(fleet: Fleet, happened: list[Event], act: str) -> None:
    breaker = fleet.process()
    event = EVENTS[act]
    ttl = 60 if act in MODES else None
    force(breaker, act, author="ann", reason="why", **({"ttl": ttl} if ttl else {}))
    assert happened == [ModeChanged("upstream", event, "ann", "why", ttl)]
    (entry,) = fleet.process().history()
    assert (entry["event"], entry["author"], entry["reason"], entry["ttl"]) == (event, "ann", "why", ttl)


def test_a_name_of_an_earlier_mode_is_not_put_to_another(fleet: Fleet) -> None:
    """Its entry may have been lost: then nobody is named, rather than somebody else."""
    breaker = fleet.process()
    breaker.force_open("ann", "migration")
    fleet.store.append(("upstream", "mode"), '{"event": "disabled", "author": "bob", "reason": ""}', keep=1, seconds=60)
    status = breaker.get_status()
    assert (status["mode"], status["author"], status["reason"]) == ("forced_open", "", "")


# What was in flight


def test_what_was_in_flight_when_it_was_forced_open_counts_and_opens_nothing(
    fleet: Fleet, happened: list[Event]
) -> None:
    breaker = fleet.process(failure_threshold=3)
    permits = [breaker.acquire() for _ in range(4)]
    breaker.force_open()
    for permit in permits[1:]:
        assert permit.failure() == 60, "the seconds to wait"
    permits[0].success()
    assert not [event for event in happened if isinstance(event, StateChanged)]
    assert breaker.get_status()["mode"] == "forced_open"
    breaker.clear_override()
    assert breaker.state == "closed"


@every_mode
def test_a_probe_in_flight_gives_its_place_back(fleet: Fleet, mode: str) -> None:
    breaker = fleet.process(failure_threshold=1)
    fail(breaker)
    fleet.clock.advance(60)
    permit = probe(breaker)
    force(breaker, mode)
    permit.failure()
    assert breaker.get_status()["half_open_calls"] == 0


# The store is unavailable


class Away:
    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.backend = FaultyMemory(clock=clock, circuit_breaker_config={"failure_threshold": 3})
        store = Store(self.backend, retry_after=5, clock=clock)
        store.local = MemoryBackend(clock=clock)
        configured._stores[self.backend] = store
        self.fleet = Fleet(self.backend, clock)

    def begin(self) -> None:
        self.backend.fault = BackendError("gone")

    def end(self) -> None:
        self.backend.fault = None


@pytest.fixture
def away(clock: ManualClock) -> Away:
    return Away(clock)


@every_mode
@pytest.mark.parametrize("tries", [1, 6])
def test_it_is_an_error_and_nothing_is_changed(away: Away, happened: list[Event], mode: str, tries: int) -> None:
    breaker = away.fleet.process(failure_threshold=1)
    fail(breaker)
    happened.clear()
    away.begin()
    for _ in range(tries):
        with pytest.raises(BackendError):
            force(breaker, mode)
    assert ask(breaker) is None, "known to be open"
    assert not [event for event in happened if isinstance(event, ModeChanged)]
    away.end()
    away.clock.advance(5)
    status = breaker.get_status()
    assert (status["state"], status["mode"]) == ("open", "automatic")
    assert [entry["event"] for entry in breaker.history()] == ["opened"]


@pytest.mark.parametrize("act", [*MODES, "clear_override", "reset"])
def test_it_works_as_soon_as_the_store_is_back(away: Away, act: str) -> None:
    """Also while the breaker around the store would still wait."""
    breaker = away.fleet.process()
    away.begin()
    for _ in range(6):
        with pytest.raises(BackendError):
            force(breaker, act)
    away.end()
    force(breaker, act, author="ann")
    assert breaker.history()[0]["author"] == "ann"


def test_a_store_that_goes_away_over_the_history_makes_nobodys_word_void(
    clock: ManualClock, happened: list[Event]
) -> None:
    class Forgetful(MemoryBackend):
        def _append(self, *_: Any) -> None:
            raise BackendError("gone")

    breaker = Fleet(Forgetful(clock=clock), clock).process()
    breaker.force_open("ann", "migration")
    refused(breaker)
    assert happened == [ModeChanged("upstream", "forced_open", "ann", "migration")]
    assert breaker.get_status()["author"] == ""


def test_a_mode_in_force_is_honoured_while_the_store_is_away_as_long_as_it_was_heard_of(away: Away) -> None:
    breaker = away.fleet.process()
    breaker.force_open("ann", ttl=600)
    away.begin()
    away.clock.advance(599)
    assert ask(breaker) is None
    asked = away.backend.asked
    assert breaker.get_status()["mode"] == "forced_open"
    assert away.backend.asked == asked, "and nobody waits for a name on top of it"
    away.clock.advance(1)
    assert ask(breaker)


@pytest.mark.parametrize("act", ["force_closed", "disable", "shadow"])
def test_who_said_that_nobody_is_refused_is_obeyed_while_the_store_is_away(
    away: Away, happened: list[Event], act: str
) -> None:
    breaker = away.fleet.process(failure_threshold=1)
    getattr(breaker, act)("ann", "the breaker is wrong")
    running = breaker.acquire()
    away.begin()
    running.failure()
    fail(breaker, 5)
    succeed(breaker)
    assert not [event for event in happened if isinstance(event, StateChanged)]
    away.end()
    away.clock.advance(5)
    away.fleet.process().clear_override()
    away.clock.advance(1)
    fail(breaker)
    refused(breaker)


@pytest.mark.parametrize("act", ["force_closed", "disable", "shadow"])
def test_a_word_with_an_end_ends_by_this_processs_clock_while_the_store_is_away(
    away: Away, act: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "wall", away.clock)
    breaker = away.fleet.process(failure_threshold=1)
    getattr(breaker, act)("ann", "an hour's peace", ttl=3600)
    away.begin()
    fail(breaker, 5)
    away.clock.advance(3600)
    fail(breaker)
    refused(breaker)


def test_forced_open_until_further_notice_is_honoured_while_the_store_is_away(away: Away) -> None:
    breaker = away.fleet.process(recovery_timeout=60)
    breaker.force_open("ann", "the supplier asked us to stop")
    away.begin()
    for _ in range(3):
        away.clock.advance(3600)
        assert refused(breaker).retry_after == 60
    assert breaker.get_status()["mode"] == "forced_open"
    away.end()
    away.clock.advance(5)
    away.fleet.process().clear_override()
    assert ask(breaker)


@pytest.mark.parametrize(("back_for", "failures"), [(4, 3), (6, 1)])
def test_a_store_that_is_back_for_a_moment_makes_nobody_forget_what_was_counted_without_it(
    away: Away, back_for: float, failures: int
) -> None:
    breaker = away.fleet.process(failure_threshold=10)
    away.begin()
    fail(breaker, 2)
    away.end()
    away.clock.advance(5)
    assert breaker.peek(refresh=True) == ("closed", 0)
    away.clock.advance(back_for)
    away.begin()
    fail(breaker)
    assert breaker.get_status()["failure_count"] == failures


@pytest.mark.parametrize("back_for", [1, 6], ids=["with the same memory", "with another"])
def test_a_call_from_an_earlier_outage_makes_nobody_forget_what_is_known_to_be_open(
    away: Away, back_for: float
) -> None:
    breaker = away.fleet.process(failure_threshold=1, recovery_timeout=600)
    away.begin()
    running = breaker.acquire()
    assert running.local
    away.end()
    away.clock.advance(5)
    fail(breaker)
    away.clock.advance(back_for)
    away.begin()
    assert ask(breaker) is None
    assert running.failure() == 600 - back_for
    assert refused(breaker).retry_after == 600 - back_for


@pytest.mark.every_store
def test_threads_that_call_meanwhile_all_see_the_end(fleet: Fleet) -> None:
    breaker = fleet.process(cache_ttl=0.01, failure_threshold=10**6)
    stop = threading.Event()

    def hammer() -> None:
        while not stop.is_set():
            permit = ask(breaker)
            if permit is not None:
                permit.success()
            fleet.clock.advance(0.001)

    threads = [threading.Thread(target=hammer) for _ in range(4)]
    for thread in threads:
        thread.start()
    acts: list[Callable[[], None]] = [breaker.force_open, breaker.force_closed, breaker.disable, breaker.reset]
    for act in acts * 5:
        act()
    breaker.force_open()
    stop.set()
    for thread in threads:
        thread.join()
    assert fleet.store.keys(BREAKER) == [("upstream", "")]
    fleet.clock.advance(1)
    refused(breaker)
