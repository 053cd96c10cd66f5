"""What became of a breaker: bounded, newest first, each transition once."""

from __future__ import annotations

import json
import multiprocessing
import threading
import uuid
from typing import Any

import pytest

from ratelimit_core import BackendError, CircuitBreaker
from ratelimit_core.backends import Backend, MemoryBackend, RedisBackend
from ratelimit_core.circuit_breaker import history
from ratelimit_core.events import Event, StateChanged
from ratelimit_core.testing import ManualClock
from tests.backends.faults import FaultyMemory
from tests.circuit_breaker import racers
from tests.circuit_breaker.fleet import Fleet, fail, probe, succeed
from tests.servers import PATIENT


def test_it_tells_what_happened_newest_first(fleet: Fleet) -> None:
    breaker = fleet.process(failure_threshold=2)
    began = fleet.clock.now / 1_000_000
    assert breaker.history() == []
    succeed(breaker)
    fail(breaker, 2)
    fleet.clock.advance(60)
    probe(breaker).failure()
    fleet.clock.advance(120)
    probe(breaker).success()
    empty: dict[str, Any] = {"name": "upstream", "author": "", "reason": "", "ttl": None, "shadow": False}
    assert breaker.history() == [
        empty | {"event": "closed", "at": began + 180, "failure_count": 0, "retry_after": 0.0},
        empty | {"event": "half_open", "at": began + 180, "failure_count": 3, "retry_after": 0.0},
        empty | {"event": "opened", "at": began + 60, "failure_count": 3, "retry_after": 120.0},
        empty | {"event": "half_open", "at": began + 60, "failure_count": 2, "retry_after": 0.0},
        empty | {"event": "opened", "at": began, "failure_count": 2, "retry_after": 60.0},
    ]
    assert fleet.process().history() == breaker.history()


def test_each_breaker_has_its_own(fleet: Fleet) -> None:
    one, other = fleet.process("one", failure_threshold=1), fleet.process("other", failure_threshold=1)
    fail(one)
    assert (len(one.history()), other.history()) == (1, [])


def test_it_keeps_so_many_and_no_more(store: Backend, clock: ManualClock) -> None:
    breaker = Fleet(store, clock).process()
    for number in range(history.MAX_ENTRIES + 5):
        breaker.force_open("ann", str(number), ttl=60)
    kept = breaker.history()
    assert [entry["reason"] for entry in kept] == [str(n) for n in reversed(range(5, history.MAX_ENTRIES + 5))]


def test_what_a_person_did_survives_a_reset(fleet: Fleet) -> None:
    breaker = fleet.process(failure_threshold=1)
    breaker.force_open("ann", "migration")
    breaker.reset("bob", "done")
    breaker.reset()
    assert [(entry["event"], entry["author"], entry["reason"]) for entry in breaker.history()] == [
        ("reset", "", ""),
        ("reset", "bob", "done"),
        ("forced_open", "ann", "migration"),
    ]


def test_text_of_any_kind_and_length_is_kept_or_cut(fleet: Fleet) -> None:
    breaker = fleet.process()
    for text in ("é😀\udcff\x00\n{}", "x" * 100_000):
        breaker.force_open(text, text)
        (entry, *_) = breaker.history()
        assert entry["author"] == entry["reason"] == text[:1000]
        assert breaker.get_status()["author"] == text[:1000]


def test_transitions_of_a_process_that_goes_on_alone_are_not_the_fleets(clock: ManualClock) -> None:
    backend = FaultyMemory(clock=clock, enable_circuit_breaker=False)
    breaker = Fleet(backend, clock).process(failure_threshold=1)
    backend.fault = BackendError("gone")
    fail(breaker)
    with pytest.raises(BackendError):
        breaker.history()
    backend.fault = None
    assert breaker.history() == []


def test_a_history_that_can_not_be_written_harms_nobody(clock: ManualClock, happened: list[Event]) -> None:
    class Forgetful(MemoryBackend):
        def _append(self, *_: Any) -> None:
            raise BackendError("gone")

    breaker = Fleet(Forgetful(clock=clock, enable_circuit_breaker=False), clock).process(failure_threshold=1)
    fail(breaker)
    assert breaker.state == "open"
    assert len(happened) == 1


def test_on_a_server_it_ends_some_day(valkey_url: str, clock: ManualClock) -> None:
    import redis

    backend = RedisBackend(valkey_url, key_prefix="test-history", **PATIENT)
    breaker = CircuitBreaker("ends", backend=backend, failure_threshold=1)
    fail(breaker)
    breaker.force_open("ann", ttl=3600)
    breaker.clear_override()
    with redis.Redis.from_url(valkey_url) as client:
        stored = [f"test-history:{{ends}}:{kind}" for kind in ("breaker:", "journal:history", "journal:mode")]
        assert sorted(client.scan_iter("test-history:{*")) == [key.encode() for key in stored]
        for key in stored:
            assert 0 < client.ttl(key) <= history.TTL_S + 3600, key
    backend.clear()
    backend.close()


@pytest.mark.every_store
def test_threads_write_each_transition_once(store: Backend, clock: ManualClock, happened: list[Event]) -> None:
    fleet = Fleet(store, clock)
    rounds = 5
    breakers = fleet.processes(8, failure_threshold=3, cache_ttl=0)
    together = threading.Barrier(8)

    def work(breaker: CircuitBreaker) -> None:
        for _ in range(rounds):
            permit = breaker.acquire()
            together.wait(30)
            permit.failure()  # eight failures at once, of which the third opens it
            if together.wait(30) == 0:
                clock.advance(60)
                breaker.reset("tester", "next round")
            together.wait(30)

    threads = [threading.Thread(target=work, args=(breaker,)) for breaker in breakers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entries = breakers[0].history()
    assert [entry["event"] for entry in entries] == ["reset", "opened"] * rounds
    assert sum(isinstance(event, StateChanged) for event in happened) == rounds


def test_eight_processes_write_each_transition_once(valkey_url: str) -> None:
    prefix = f"test-{uuid.uuid4().hex}"
    context = multiprocessing.get_context("spawn")
    names = [f"breaker-{n}" for n in range(10)]
    start = context.Barrier(8)
    pipes = [context.Pipe(duplex=False) for _ in range(8)]
    processes = [
        context.Process(target=racers.open_and_probe, args=(valkey_url, prefix, names, start, sender))
        for _, sender in pipes
    ]
    for process in processes:
        process.start()
    reported = [event for receiver, _ in pipes if receiver.poll(60) for event in receiver.recv()]
    for process in processes:
        process.join()
    backend = RedisBackend(valkey_url, key_prefix=prefix, **PATIENT)
    for name in names:
        entries = CircuitBreaker(name, backend=backend).history()
        assert [entry["event"] for entry in entries] == ["closed", "half_open", "opened"]
    assert sorted(reported) == sorted((name, new) for name in names for new in ("open", "half_open", "closed"))
    backend.clear()
    backend.close()


def test_an_entry_from_before_says_what_it_says_and_no_more(fleet: Fleet) -> None:
    """As an older version of this library has written it, which knew of no shadow."""
    breaker = fleet.process()
    old: dict[str, Any] = {"name": "upstream", "event": "opened", "at": 5.0, "author": "", "reason": ""}
    old |= {"failure_count": 3, "retry_after": 60.0, "ttl": None}
    fleet.store.append(("upstream", "history"), json.dumps(old), keep=9, seconds=60)
    assert breaker.history() == [old | {"shadow": False}]


def test_entries_are_plain_json(store: Backend, clock: ManualClock) -> None:
    breaker = Fleet(store, clock).process(failure_threshold=1)
    fail(breaker)
    (text,) = store.entries(("upstream", "history"))
    assert json.loads(text) == breaker.history()[0]
