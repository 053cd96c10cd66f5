"""Plain counters: incr, get_count, get_reset_time and reset, on each store."""

from __future__ import annotations

import multiprocessing
import threading
import uuid
from typing import Any

import pytest

from ratelimit_core import ConfigurationError
from ratelimit_core._util.clock import SECOND
from ratelimit_core.backends import Backend, MemoryBackend, RedisBackend
from ratelimit_core.policies import COUNTER
from ratelimit_core.testing import ManualClock
from tests.servers import PATIENT

from .members import count


@pytest.mark.every_store
def test_hits_are_counted_one_by_one(store: Backend) -> None:
    assert store.get_count("user:1") == 0
    assert [store.incr("user:1", 60) for _ in range(5)] == [1, 2, 3, 4, 5]
    assert store.get_count("user:1") == store.get_count("user:1", 60) == 5


def test_looking_counts_nothing(store: Backend) -> None:
    store.incr("key", 60)
    for _ in range(3):
        assert store.get_count("key") == 1
        store.get_reset_time("key")
    assert store.incr("key", 60) == 2
    assert store.get_count("never") == 0
    assert store.keys(COUNTER) == [("key", "")]


def test_a_window_begins_with_its_first_hit_and_ends_a_period_later(store: Backend, clock: ManualClock) -> None:
    store.incr("key", 60)
    clock.advance(59.999_999)
    assert store.incr("key", 60) == 2
    clock.advance(0.000_001)
    assert store.get_count("key") == 0
    assert store.get_reset_time("key") is None
    assert store.incr("key", 60) == 1


def test_the_period_of_the_first_hit_holds_for_the_window(store: Backend, clock: ManualClock) -> None:
    store.incr("key", 10)
    store.incr("key", 1000)
    clock.advance(10)
    assert store.get_count("key") == 0


@pytest.mark.parametrize(("period", "ends"), [(60, 60), (0.9, 1), (1.5, 2), (400 * 86400, 400 * 86400)])
def test_the_reset_time_is_in_whole_seconds_and_never_too_early(
    store: Backend, clock: ManualClock, period: float, ends: int
) -> None:
    assert store.get_reset_time("key") is None
    store.incr("key", period)
    assert store.get_reset_time("key") == clock.now // SECOND + ends
    assert type(store.get_reset_time("key")) is int


@pytest.mark.every_store
def test_a_reset_forgets_that_key_and_no_other(store: Backend) -> None:
    for key in ("a", "b"):
        store.incr(key, 60)
    store.reset("a")
    store.reset("never")
    assert (store.get_count("a"), store.get_count("b")) == (0, 1)
    assert store.get_reset_time("a") is None
    assert store.incr("a", 60) == 1


@pytest.mark.parametrize("key", ["", " ", "a:b", "{}", "é😀", "\x00", "x" * 5000])
def test_any_text_is_a_key(store: Backend, key: str) -> None:
    assert [store.incr(key, 60), store.incr(key + "'", 60), store.incr(key, 60)] == [1, 1, 2]


@pytest.mark.parametrize("period", [0, -1, -0.001, float("nan"), float("inf"), 401 * 86400, True, "60", None], ids=repr)
def test_a_period_that_makes_no_sense_is_refused(store: Backend, period: Any) -> None:
    for _ in range(6):
        with pytest.raises(ConfigurationError, match="period should be seconds"):
            store.incr("key", period)
    assert store.incr("key", 60) == 1, "and is not the store's failure"


@pytest.mark.parametrize("key", [None, 5, b"key", ("a", "b")])
def test_a_key_that_is_no_text_is_refused(store: Backend, key: Any) -> None:
    for _ in range(6):
        for operation in (store.get_count, store.get_reset_time, store.reset, lambda key: store.incr(key, 60)):
            with pytest.raises(ConfigurationError, match="should be a string"):
                operation(key)
    assert store.incr("key", 60) == 1


def test_a_clock_that_goes_back_does_not_begin_anew(store: Backend, clock: ManualClock) -> None:
    store.incr("key", 60)
    clock.advance(-30)
    assert store.incr("key", 60) == 2
    clock.advance(90)
    assert store.get_count("key") == 0


def test_counters_and_limits_of_one_name_do_not_meet(store: Backend) -> None:
    from ratelimit_core import Limiter

    store.incr("supplier", 60)
    assert Limiter("2/m", key="supplier", algorithm="fixed_window", backend=store).hit().remaining == 1
    assert store.get_count("supplier") == 1


# Races


def test_threads_count_exactly(clock: ManualClock) -> None:
    backend = MemoryBackend(clock=clock)
    seen: list[int] = []
    threads = [
        threading.Thread(target=lambda: seen.extend([backend.incr("key", 60) for _ in range(500)])) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == list(range(1, 4001))


def test_processes_count_exactly(valkey_url: str) -> None:
    prefix = f"test-{uuid.uuid4().hex}"
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(4)
    pipes = [context.Pipe(duplex=False) for _ in range(4)]
    processes = [context.Process(target=count, args=(valkey_url, prefix, start, answers)) for _, answers in pipes]
    for process in processes:
        process.start()
    seen = [number for answers, _ in pipes for number in answers.recv()]
    for process in processes:
        process.join()
    assert sorted(seen) == list(range(1, 801))
    backend = RedisBackend(valkey_url, key_prefix=prefix, **PATIENT)
    assert backend.get_count("key") == 800
    backend.clear()
    backend.close()
