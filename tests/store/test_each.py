"""Several batches in one round trip, where the store may be unavailable."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ratelimit_core import BackendError, events
from ratelimit_core.events import Event, StoreAvailabilityChanged
from ratelimit_core.policies import ALLOWED, ANSWER
from ratelimit_core.store import fallback
from ratelimit_core.store.drive import Steps, adrive, drive
from ratelimit_core.store.fallback import Store
from ratelimit_core.testing import ManualClock
from tests.backends.faults import FaultyMemory, call

BATCHES = [[call()], [call()], [call(("other", ""))], [call()], [call()]]


@pytest.fixture
def backend(clock: ManualClock) -> FaultyMemory:
    return FaultyMemory(clock=clock)


@pytest.fixture
def store(backend: FaultyMemory, clock: ManualClock) -> Store:
    return Store(backend, retry_after=5, clock=clock)


@pytest.fixture
def subscribed() -> Iterator[list[Event]]:
    seen: list[Event] = []
    end = events.subscribe(seen.append)
    yield seen
    end()


Ask = Callable[..., list[list[tuple[int, ...]]]]


@pytest.fixture(params=["blocking", "awaiting"])
def ask(request: pytest.FixtureRequest, store: Store) -> Ask:
    """As a guard asks: by a step."""

    def steps(*arguments: Any) -> Steps[Any]:
        return (yield "apply_each", *arguments)

    def awaiting(*arguments: Any) -> Any:
        return asyncio.run(adrive(steps(*arguments), store))

    def blocking(*arguments: Any) -> Any:
        return drive(steps(*arguments), store)

    return blocking if request.param == "blocking" else awaiting


def allowed(verdicts: list[list[tuple[int, ...]]]) -> list[list[int]]:
    return [[verdict[ALLOWED] for verdict in batch] for batch in verdicts]


def test_the_store_decides_all_at_once(ask: Ask, backend: FaultyMemory) -> None:
    assert allowed(ask(BATCHES, 3)) == [[1], [1], [1], [], []]
    assert allowed(ask(BATCHES)) == [[1], [0], [1], [0], [0]]
    assert backend.asked == 2


def test_one_failure_makes_the_store_unavailable_and_the_memory_decides(
    ask: Ask, store: Store, backend: FaultyMemory, clock: ManualClock, subscribed: list[Event]
) -> None:
    backend.fault = BackendError("gone")
    for said in ("gone", "the shared store is unavailable"):
        with pytest.raises(BackendError, match=said) as caught:
            ask(BATCHES)
        assert caught.value.retry_after == 5
    assert not store.available
    assert backend.asked == 1
    assert allowed(store.local.apply_each(BATCHES)) == [[1], [1], [1], [1], [0]]
    backend.fault = None
    clock.advance(5)
    assert [verdict[ANSWER] for (verdict,) in ask(BATCHES)] == [2, 1, 2, 0, 0]
    assert [event.available for event in subscribed if isinstance(event, StoreAvailabilityChanged)] == [False, True]


def test_what_asks_no_store_says_nothing_about_it(
    ask: Ask, store: Store, backend: FaultyMemory, clock: ManualClock
) -> None:
    backend.fault = BackendError("gone")
    with pytest.raises(BackendError):
        ask(BATCHES)
    clock.advance(5)
    assert ask([]) == []
    assert ask([[], []]) == [[], []]
    assert ask(BATCHES, 0) == [[]] * 5
    with pytest.raises(ValueError, match="two calls of one batch"):
        ask([[call(), call()]])
    assert not store.available
    assert backend.asked == 1


def test_it_is_measured_as_one_round_trip(ask: Ask, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.shared = True
    measured: list[bool] = []
    monkeypatch.setattr(fallback, "observer", lambda seconds, failed: measured.append(failed))
    ask(BATCHES)
    assert measured == [False]
