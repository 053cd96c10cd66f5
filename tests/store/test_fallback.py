"""When a store counts as unavailable, who tries it again, and what is measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import pytest

from ratelimit_core import BackendError
from ratelimit_core.backends import Call, MemoryBackend
from ratelimit_core.policies import Verdict
from ratelimit_core.store import fallback
from ratelimit_core.store.fallback import Store
from ratelimit_core.testing import ManualClock

RETRY_AFTER = 5.0


class Shared(MemoryBackend):
    """Fails while it is down. What is to happen during the next request happens before its answer."""

    shared = True
    down = False
    asked = 0
    meanwhile: Callable[[], None] | None = None

    def _apply(self, calls: Sequence[Call]) -> list[Verdict]:
        self.asked += 1
        down = self.down
        if self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            meanwhile()
        if down:
            raise BackendError("no answer")
        return super()._apply(calls)


@pytest.fixture
def backend() -> Shared:
    return Shared()


@pytest.fixture
def store(backend: Shared, clock: ManualClock) -> Store:
    return Store(backend, retry_after=RETRY_AFTER, clock=clock)


def fail(store: Store, backend: Shared) -> None:
    backend.down = True
    with pytest.raises(BackendError):
        store.apply([])


def test_at_the_moment_that_was_told_one_call_tries_and_the_others_go_on_without(
    store: Store, backend: Shared, clock: ManualClock
) -> None:
    fail(store, backend)
    clock.advance(RETRY_AFTER)
    backend.down = False

    def another() -> None:
        with pytest.raises(BackendError) as caught:
            store.apply([])
        assert caught.value.retry_after == RETRY_AFTER

    backend.meanwhile, backend.asked = another, 0
    assert store.apply([]) == []
    assert (backend.asked, store.available) == (1, True)


def test_an_answer_from_before_an_outage_does_not_end_it(
    store: Store, backend: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fallback, "observer", lambda seconds, failed: None)  # it is measured, so it goes by steps
    backend.meanwhile = lambda: fail(store, backend)
    assert store.apply([]) == []
    assert not store.available


def test_a_round_trip_is_measured_in_seconds(store: Store, backend: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[float, bool]] = []
    monkeypatch.setattr(fallback, "observer", lambda seconds, failed: seen.append((seconds, failed)))
    began = time.perf_counter()
    store.apply([])
    fail(store, backend)
    most = time.perf_counter() - began
    assert [failed for _, failed in seen] == [False, True]
    assert all(0 <= seconds <= most for seconds, _ in seen)
