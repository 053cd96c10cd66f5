"""The waiting keys of a queue, with real guards on every store."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest

from ratelimit_core import CircuitBreaker, CircuitBreakerError, Limiter, RateLimitExceeded
from ratelimit_core._util.clock import SECOND
from ratelimit_core._util.steps import Steps
from ratelimit_core.backends import Backend, MemoryBackend
from ratelimit_core.errors import BackendError
from ratelimit_core.guard import Admission, Guard
from ratelimit_core.store.drive import drive
from ratelimit_core.store.fallback import Store
from ratelimit_core.testing import ManualClock
from ratelimit_core.waiting.ask import ask_each
from ratelimit_core.waiting.keys import BREAKER_PAUSE, WaitingKeys
from ratelimit_core.waiting.newcomer import KeyWaits, Newcomer

ROOM = 4


class Counting(Store):
    """A store that notes each round trip."""

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend)
        self.trips: list[str] = []

    def apply(self, calls: Any) -> Any:
        self.trips.append("apply")
        return super().apply(calls)

    def apply_each(self, batches: Any, most: int | None = None) -> Any:
        self.trips.append("apply_each")
        return super().apply_each(batches, most)


class Worker:
    """The view of one worker, and what it asks for each key."""

    def __init__(self, backend: Backend, guards: dict[str, Guard], clock: ManualClock, **options: Any) -> None:
        self.keys = WaitingKeys("celery", **options)
        self.store = Counting(backend)
        self._guards = guards
        self._clock = clock

    def newcomer(self, key: str) -> Admission:
        return drive(self._guards[key].steps(also=Newcomer("celery", key)), self.store)

    def enter(self, key: str) -> int:
        number = drive(self.keys.enter(key), self.store)
        self.keys.moved(key)
        return number

    def ask(self, room: int = ROOM) -> dict[str, int]:
        """How many admissions of each key were granted."""
        return {key: len(admissions) for key, _, admissions in self.granted(room)}

    def granted(self, room: int = ROOM) -> list[Any]:
        question: Callable[[str], Steps[Admission]] = lambda key: self._guards[key].steps()  # noqa: E731
        return drive(self.keys.ask(self._clock(), room, question), self.store)

    def leave(self, key: str) -> bool:
        return drive(self.keys.leave(key, self._clock()), self.store)

    def wait(self) -> float:
        """Seconds until it asks next."""
        due = self.keys.next_due()
        assert due is not None
        return (due - self._clock()) / SECOND


Make = Callable[..., Worker]


@pytest.fixture
def guards(store: Backend, clock: ManualClock) -> dict[str, Guard]:
    def limited(key: str, rate: str | None, **options: Any) -> Guard:
        return Guard(None, Limiter(rate, key=key, backend=store, clock=clock, **options))

    breaker = CircuitBreaker("bank", failure_threshold=1, recovery_timeout=60, backend=store, clock=clock)
    return {
        "rate": limited("rate", "2/10s", algorithm="fixed_window"),
        "other": limited("other", "3/10s", algorithm="fixed_window"),
        "third": limited("third", "9/10s", algorithm="fixed_window"),
        "one": limited("one", None, concurrency=1),
        "bank": Guard(breaker, None),
    }


@pytest.fixture
def make(store: Backend, guards: dict[str, Guard], clock: ManualClock, lasting_keys: None) -> Make:
    return lambda **options: Worker(store, guards, clock, **options)


def exhaust(worker: Worker, key: str) -> None:
    with suppress(RateLimitExceeded):
        while True:
            worker.newcomer(key)


def test_a_newcomer_goes_behind_those_that_wait(make: Make, clock: ManualClock) -> None:
    worker, other = make(), make()
    exhaust(worker, "rate")
    assert worker.enter("rate") == 0
    clock.advance(10)
    with pytest.raises(KeyWaits) as waits:
        other.newcomer("rate")
    assert waits.value.number == 0
    assert worker.ask(1) == {"rate": 1}
    assert other.newcomer("other").decision is not None, "another key does not wait"


def test_as_many_as_there_is_room_for_in_one_round_trip(make: Make, clock: ManualClock) -> None:
    worker = make()
    exhaust(worker, "rate")
    worker.enter("rate")
    clock.advance(10)
    worker.store.trips.clear()
    assert worker.ask(1) == {"rate": 1}
    assert worker.ask(ROOM) == {"rate": 1}
    assert worker.store.trips == ["apply_each"] * 2
    assert 9 < worker.wait() + 5 <= 15, "an operator may reset a limit: it asks again after 5 s at most"
    assert worker.ask() == {}
    assert worker.store.trips == ["apply_each"] * 2, "nothing is due and nothing to report: no round trip"


def test_keys_are_served_in_turn_and_each_is_decided_on_its_own(make: Make, clock: ManualClock) -> None:
    worker = make()
    for key in ("other", "rate", "third"):
        exhaust(worker, key)
        worker.enter(key)
    clock.advance(10)
    assert worker.ask(4) == {"other": 2, "rate": 1, "third": 1}
    assert worker.ask(2) == {"rate": 1, "third": 1}, "whose turn comes next"
    assert worker.ask(4) == {"other": 1, "third": 2}
    assert worker.ask(4) == {"third": 4}, "what one key left is there for the others at once"


def test_a_run_that_ends_makes_room_at_once(make: Make, clock: ManualClock) -> None:
    worker = make()
    running = worker.newcomer("one")
    exhaust(worker, "one")
    worker.enter("one")
    assert worker.ask() == {}
    assert worker.wait() > 0
    running.cancel()
    worker.keys.ended("one", clock())
    assert worker.wait() == 0
    assert worker.ask() == {"one": 1}


def test_a_breaker_that_another_worker_closes_is_noticed_soon(
    make: Make, guards: dict[str, Guard], clock: ManualClock
) -> None:
    worker = make()
    breaker = guards["bank"].breaker
    assert breaker is not None
    breaker.acquire().failure()
    with pytest.raises(CircuitBreakerError):
        worker.newcomer("bank")
    worker.enter("bank")
    assert worker.ask() == {}
    assert 0 < worker.wait() <= BREAKER_PAUSE / SECOND
    breaker.reset()
    clock.advance(worker.wait())
    assert worker.ask() == {"bank": ROOM}


def test_a_number_is_held_by_one_key_and_is_free_when_it_is_left(make: Make, clock: ManualClock) -> None:
    worker, other = make(), make()
    assert [worker.enter("rate"), other.enter("other"), other.enter("rate"), worker.enter("other")] == [0, 1, 0, 1]
    worker.ask(0)
    assert not worker.leave("rate"), "tasks were just moved there"
    clock.advance(1)
    assert worker.leave("rate")
    assert worker.keys.number_of("rate") is None
    assert make().enter("third") == 0


def test_a_task_on_its_way_keeps_the_place(make: Make, clock: ManualClock) -> None:
    worker, other = make(), make()
    worker.enter("rate")
    worker.ask(0)
    other.enter("rate")
    clock.advance(1)
    other.ask(0)
    assert not worker.leave("rate"), "the other one has reported that it moved a task there"
    assert not other.leave("other"), "which it does not know"
    other.keys.moved("rate")
    clock.advance(1)
    assert not other.leave("rate"), "it has moved one itself, and not reported it yet"


def test_after_a_flush_each_key_takes_its_number_again(make: Make, store: Backend) -> None:
    worker = make()
    worker.enter("rate")
    worker.enter("other")
    worker.ask(0)
    store.clear()
    assert worker.ask() == {"rate": 2, "other": 2}, "the limit is spent once more"
    assert worker.keys.lost == {"rate", "other"}
    assert [worker.enter("other"), worker.enter("rate")] == [1, 0]
    assert worker.keys.lost == set()


def test_a_key_that_was_left_and_taken_again_elsewhere_is_followed(make: Make, clock: ManualClock) -> None:
    worker, other = make(), make()
    worker.enter("rate")
    worker.ask(0)
    other.keys.found("rate", 0)
    clock.advance(1)
    assert worker.leave("rate")
    third = make()
    assert [third.enter("other"), third.enter("rate")] == [0, 1]
    assert [(key, number) for key, number, _ in other.granted()] == [("rate", 1)]


def test_where_no_number_is_free_keys_share_one(make: Make, clock: ManualClock) -> None:
    worker = make(most_numbers=2)
    assert {worker.enter(key) for key in ("rate", "other")} == {0, 1}
    assert worker.enter("third") in (0, 1)
    assert worker.keys.number_of("third") == make(most_numbers=2).enter("third")
    with pytest.raises(KeyWaits):
        make(most_numbers=2).newcomer("third")
    worker.ask()
    assert worker.keys.lost == set(), "it has a place of its own, so it need not enter again and again"
    clock.advance(1)
    assert worker.leave("third"), "and the other key keeps the number"
    assert {make(most_numbers=2).enter(key) for key in ("rate", "other")} == {0, 1}


def test_the_questions_of_two_workers_are_spread(make: Make, clock: ManualClock) -> None:
    workers = [make() for _ in range(8)]
    exhaust(workers[0], "rate")
    clock.advance(9.9)  # so that the limit is reached, and would be free in a moment
    for worker in workers:
        worker.enter("rate")
    for worker in workers:
        assert worker.ask() == {}
    waits = sorted(worker.wait() for worker in workers)
    assert all(later - sooner >= 0.049 for sooner, later in pairwise(waits[2:])), waits


class Unavailable(MemoryBackend):
    def _apply(self, calls: Any) -> Any:
        raise BackendError("unavailable")

    def _apply_each(self, batches: Any, most: int | None) -> Any:
        raise BackendError("unavailable")


def test_without_the_store_nothing_is_decided_and_no_success_is_lost(clock: ManualClock) -> None:
    backend = MemoryBackend(clock=clock)
    breaker = CircuitBreaker("bank", backend=backend, clock=clock, cache_ttl=1)
    for _ in range(3):
        breaker.call(int)
    clock.advance(2)
    with pytest.raises(BackendError):
        drive(ask_each([], [Guard(breaker, None).steps()], 1), Store(Unavailable()))
    assert breaker.stats["successes"] == 3


def test_what_is_cached_costs_no_round_trip_and_takes_room(clock: ManualClock) -> None:
    backend = MemoryBackend(clock=clock)
    guard = Guard(CircuitBreaker("bank", backend=backend, clock=clock, cache_ttl=10), None)
    guard.acquire().cancel()
    store = Counting(backend)
    _, answers = drive(ask_each([], [guard.steps() for _ in range(3)], 2), store)
    assert [answer.result is not None for answer in answers] == [True, True, False]
    assert store.trips == []
