"""The promises about a breaker under any order of calls, late outcomes, faults of the store, orders and restarts.

Several processes, each with what it knows of its own, share one store. Time moves only when a rule moves it. What the
promises say is written down beside the store in the obvious way, and compared after every rule with what the store has.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from ratelimit_core import BackendError, CircuitBreaker, CircuitBreakerError, events
from ratelimit_core._util.clock import SECOND, Clock
from ratelimit_core.backends import Backend, MemoryBackend
from ratelimit_core.backends.records import Records
from ratelimit_core.circuit_breaker.breaker import cache_of
from ratelimit_core.circuit_breaker.cache import BreakerCache
from ratelimit_core.circuit_breaker.permit import Permit
from ratelimit_core.policies import BREAKER
from ratelimit_core.policies.circuit_breaker import CLOSED, FORCED_CLOSED, FORCED_OPEN, HALF_OPEN, OPEN
from ratelimit_core.protocol.breaker import BreakerVerdict
from ratelimit_core.store import configured
from ratelimit_core.store.fallback import Store
from ratelimit_core.testing import ManualClock
from tests.backends.faults import FaultyMemory, FaultyRedis
from tests.circuit_breaker.fleet import Fleet, ask, broken
from tests.conformance.profiles import examples

PROCESSES = 3
RECOVERY, LONGEST, RESET, PROBE = 1, 4, 10, 2
WHO = st.integers(0, PROCESSES - 1)
BEGUN = st.lists(WHO, min_size=1, max_size=4)
OUTCOMES = st.sampled_from(["success", "failure", "failure", "cancel"])
TRANSITIONS = {CLOSED: {OPEN}, OPEN: {HALF_OPEN}, HALF_OPEN: {OPEN, CLOSED}}


@dataclass(eq=False)
class Process:
    """One member of the fleet; ``paused`` it does nothing, and its permits grow old."""

    breaker: CircuitBreaker
    backend: FaultyMemory | FaultyRedis
    paused: bool = False
    succeeded_at: int = 0
    """Its last success of the present generation, if the store will hear of it with the next question."""
    refused_until: int = 0
    """Until when it knows from the store that nobody is let through."""

    @property
    def cache(self) -> BreakerCache:
        return cache_of(self.breaker)

    @property
    def cut_off(self) -> bool:
        return self.backend.fault is not None


@dataclass(eq=False)
class Held:
    """A permit that somebody took, and has not settled yet."""

    process: Process
    permit: Permit
    taken_at: int


@dataclass
class Promised:
    """What the promises say of the shared breaker."""

    failures: int = 0
    """In a row: since the last success, told or not."""
    told: int = 0
    """All that the store was told in this generation."""
    failed_at: int = 0
    passed: int = 0
    wait: int = 0
    closed_at: int | None = None
    barred_since: int | None = None
    """From when on nobody but probes is let through."""
    refused_until: int = 0
    """The last moment at which that was so."""
    reset_at: int = 0

    def opens_for(self, now: int, was: int) -> int:
        quiet = self.closed_at is None or now - self.closed_at >= RESET * SECOND
        if not self.wait or (was == CLOSED and quiet):
            return RECOVERY * SECOND
        return min(LONGEST * SECOND, self.wait * 2)


def bars(verdict: BreakerVerdict) -> bool:
    """Whether only probes are let through, at most."""
    return verdict.effective_state != CLOSED


def refuses(verdict: BreakerVerdict, now: int) -> bool:
    """Whether nobody is let through."""
    return verdict.mode == FORCED_OPEN or (verdict.effective_state == OPEN and now < verdict.retry_at)


class Breaker(RuleBasedStateMachine):
    """On a store that ``make`` makes: for each process another one, over the same records."""

    def __init__(self, make: Callable[[ManualClock], Callable[[], Backend]]) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.make = make(self.clock)
        self.observer = self.make()
        self.seen: list[events.Event] = []
        self.unsubscribe = events.subscribe(self.seen.append)
        self.held: list[Held] = []
        self.lost: list[Held] = []
        self.promised = Promised()

    @initialize(
        threshold=st.integers(1, 3),
        places=st.integers(1, 2),
        successes=st.integers(1, 2),
        cache_ttl=st.sampled_from([0, 0.25]),
    )
    def begin(self, threshold: int, places: int, successes: int, cache_ttl: float) -> None:
        self.options: dict[str, Any] = {
            "failure_threshold": threshold,
            "half_open_max_calls": places,
            "success_threshold": successes,
            "cache_ttl": cache_ttl,
            "recovery_timeout": RECOVERY,
            "exponential_backoff_max": LONGEST,
            "reset_timeout": RESET,
            "probe_timeout": PROBE,
        }
        self.ttl = round(cache_ttl * SECOND)
        self.processes = [self.started() for _ in range(PROCESSES)]

    def started(self) -> Process:
        backend: Any = self.make()
        store = Store(backend, clock=self.clock)
        store.local = MemoryBackend(clock=self.clock, enable_circuit_breaker=False)
        configured._stores[backend] = store
        return Process(Fleet(backend, self.clock).process(**self.options), backend)

    # What there is to look at

    def record(self) -> BreakerVerdict:
        return BreakerVerdict._make(self.observer.apply([self.processes[0].cache.peek_call()])[0])

    def tick(self) -> BreakerVerdict:
        """No two things happen at one moment; what the store has before the next."""
        self.clock.advance(0.001)
        self.seen.clear()
        return self.noted(self.record())

    def noted(self, record: BreakerVerdict) -> BreakerVerdict:
        promised = self.promised
        if bars(record):
            promised.barred_since = promised.barred_since or self.clock.now
            promised.refused_until = self.clock.now
        else:
            promised.barred_since = None
        return record

    def compared(self, before: BreakerVerdict) -> BreakerVerdict:
        """What the store has now: changed only along the table, into another generation, and reported once."""
        after, promised, now = self.noted(self.record()), self.promised, self.clock.now
        changes = [each for each in self.seen if isinstance(each, events.StateChanged) and not each.local]
        assert len(changes) == (before.state != after.state)
        if not changes:
            assert after.generation == before.generation or not before.generation
            return after
        assert after.state in TRANSITIONS[before.state]
        assert after.generation > before.generation
        promised.failures = promised.told = promised.passed = 0
        for process in self.processes:
            process.succeeded_at = 0
        if after.state == OPEN:
            promised.wait = promised.opens_for(now, before.state)
            assert after.retry_at - now == promised.wait
        elif after.state == CLOSED:
            promised.closed_at = now
        return after

    def those(self, *, cut_off: bool | None = None, paused: bool = False) -> list[Process]:
        return [each for each in self.processes if each.paused == paused and cut_off in (None, each.cut_off)]

    def running(self, who: int) -> Process:
        return self.those()[who % len(self.those())]

    # Calls

    @rule(begun=BEGUN)
    def calls_begin(self, begun: Iterable[int]) -> None:
        self.held += [held for who in begun if (held := self.take(self.running(who))) is not None]

    @rule(calls=st.lists(st.tuples(WHO, OUTCOMES), min_size=1, max_size=8))
    def calls(self, calls: list[tuple[int, str]]) -> None:
        for who, outcome in calls:
            held = self.take(self.running(who))
            if held is not None:
                self.settle(held, outcome)

    @precondition(lambda self: self.held)
    @rule(ends=st.lists(st.tuples(st.integers(0, 20), OUTCOMES), min_size=1, max_size=4))
    def calls_end(self, ends: list[tuple[int, str]]) -> None:
        for which, outcome in ends:
            running = [held for held in self.held if not held.process.paused]
            if running:
                held = running[which % len(running)]
                self.held.remove(held)
                self.settle(held, outcome)

    def take(self, process: Process) -> Held | None:
        before = self.tick()
        asked, barred_since = process.backend.asked, self.promised.barred_since
        permit = ask(process.breaker)
        after = self.compared(before)
        told = process.backend.asked > asked and not process.cut_off
        if not told:
            assert after.record == before.record
        if told:
            process.refused_until = after.retry_at if permit is None and after.state == OPEN else 0
        elif process.cut_off and self.clock.now < process.refused_until:
            assert permit is None, "what is known of the store is honoured"
        if permit is None:
            if process.cache.store.available and not bars(before):
                assert self.clock.now < self.promised.refused_until + SECOND, "a reset is seen within a second"
            return None
        held = Held(process, permit, self.clock.now)
        if permit.local:
            process.succeeded_at = 0
            return held
        if permit.probe:
            assert bars(before)
            assert not refuses(before, self.clock.now)
        elif barred_since is not None:
            assert self.clock.now < barred_since + self.ttl, "on an old word of the store's"
        if told and process.succeeded_at > self.promised.failed_at and before.state == CLOSED:
            assert after.failure_count == 0, "a question carries what the store has not been told"
        return held

    def settle(self, held: Held, outcome: str) -> None:
        process, permit, promised, before = held.process, held.permit, self.promised, self.tick()
        asked, passed = process.backend.asked, promised.passed
        getattr(permit, outcome)()
        after = self.compared(before)
        told = process.backend.asked > asked and not process.cut_off
        if permit.local or not told or permit.generation != before.generation:
            assert after.record == before.record, "late, or of another place"
        if permit.local or permit.generation != before.generation:
            return
        if outcome == "failure" and told:
            self.failed(before, after)
        elif outcome == "success" and before.state == HALF_OPEN and told:
            assert (after.state == CLOSED) == (passed + 1 >= self.options["success_threshold"])
            if after.state == HALF_OPEN:
                promised.passed = passed + 1
        elif outcome == "success" and before.state == CLOSED:
            promised.failures = 0
            if permit.generation == process.cache.cached.generation:
                process.succeeded_at = self.clock.now

    def failed(self, before: BreakerVerdict, after: BreakerVerdict) -> None:
        """A failure of the present generation, which the store was told."""
        promised, threshold = self.promised, self.options["failure_threshold"]
        overruled = before.mode in (FORCED_OPEN, FORCED_CLOSED)
        if before.state != CLOSED:
            assert after.state == OPEN or overruled
        elif after.state == OPEN:
            assert after.failure_count == max(threshold, before.failure_count + 1)
        else:
            promised.failed_at = self.clock.now
            promised.failures += 1
            promised.told += 1
            assert promised.failures <= after.failure_count <= promised.told
            assert after.failure_count < threshold or overruled

    # Time, pauses and the store

    @rule(seconds=st.sampled_from([0.1, 0.3, 1, 1.5, 2.5, 11]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @precondition(lambda self: self.record().retry_at > self.clock.now)
    @rule(
        early=st.sampled_from([1_001, 1_000]),
        begun=BEGUN,
        seconds=st.sampled_from([0.1, PROBE - 0.1, PROBE]),
        more=BEGUN,
    )
    def time_comes_for_a_probe(self, early: int, begun: list[int], seconds: float, more: list[int]) -> None:
        """But for the moment that passes before the next call, or for one µs more."""
        self.clock.now = max(self.clock.now, self.record().retry_at - early)
        self.calls_begin(begun)
        self.clock.advance(seconds)
        self.calls_begin(more)

    @rule(who=WHO, seconds=st.sampled_from([0, RESET - 0.1, RESET]))
    def upstream_goes_down(self, who: int, seconds: float) -> None:
        self.clock.advance(seconds)
        self.calls([(who, "failure")] * self.options["failure_threshold"])

    @precondition(lambda self: len(self.those()) > 1)
    @rule(who=WHO)
    def is_paused(self, who: int) -> None:
        self.running(who).paused = True

    @precondition(lambda self: self.those(paused=True))
    @rule(outcome=OUTCOMES)
    def wakes(self, outcome: str) -> None:
        """After a minute; and what it had begun ends at once."""
        self.clock.advance(60)
        process = self.those(paused=True)[0]
        process.paused = False
        for held in [held for held in self.held if held.process is process]:
            self.held.remove(held)
            self.settle(held, outcome)

    @rule(who=WHO, killed=st.booleans())
    def loses_its_memory(self, who: int, killed: bool) -> None:
        """Killed, another one starts in its place, and nobody will ever settle its permits."""
        process = self.running(who)
        process.cache.forget()
        process.succeeded_at = process.refused_until = 0
        if killed:
            self.processes[self.processes.index(process)] = self.started()
            self.lost += [held for held in self.held if held.process is process]
            self.held = [held for held in self.held if held.process is not process]

    @rule(number=st.integers(1, PROCESSES))
    def store_fails(self, number: int) -> None:
        for process in self.processes[:number]:
            process.backend.fault = BackendError("told to fail")
            process.succeeded_at = 0

    @precondition(lambda self: any(process.cut_off for process in self.processes))
    @rule(seconds=st.sampled_from([0, 5]))
    def store_heals(self, seconds: float) -> None:
        for process in self.processes:
            process.backend.fault = None
        self.clock.advance(seconds)

    @precondition(lambda self: self.those(cut_off=True))
    @rule()
    def trips_alone(self) -> None:
        """Cut off from the store, it stops calling after the threshold, and the store hears nothing of that."""
        process, before = self.those(cut_off=True)[0], self.tick()
        allowed = process.cache.override_allows()
        for _ in range(self.options["failure_threshold"]):
            with suppress(ConnectionError, CircuitBreakerError):
                process.breaker.call(broken)
        assert (ask(process.breaker) is not None) == allowed
        assert self.compared(before).record == before.record

    # Orders

    @rule(
        who=WHO,
        order=st.sampled_from(["force_open", "force_closed", "clear_override", "clear_override", "reset", "reset"]),
    )
    def is_ordered(self, who: int, order: str) -> None:
        process, before = self.running(who), self.tick()
        with pytest.raises(BackendError) if process.cut_off else nullcontext():
            getattr(process.breaker, order)()
        if order == "reset":  # what it knew is forgotten in any case
            process.succeeded_at = process.refused_until = 0
        if process.cut_off or order != "reset":
            after = self.compared(before)
            assert after.record == before.record or not process.cut_off
            return
        assert self.record().record == BREAKER.blank
        self.promised = Promised(refused_until=self.promised.refused_until, reset_at=self.clock.now)
        for each in self.processes:
            each.succeeded_at = 0
        self.clock.advance(1)
        self.calls_begin(range(len(self.those())))

    # What holds at every moment

    @invariant()
    def no_more_probes_run_than_there_are_places(self) -> None:
        since = max(self.promised.reset_at, self.clock.now - PROBE * SECOND)
        probes = [held for held in self.held + self.lost if held.permit.probe and not held.permit.local]
        assert sum(probe.taken_at > since for probe in probes) <= self.options["half_open_max_calls"]
        assert self.record().probes <= self.options["half_open_max_calls"]

    def teardown(self) -> None:
        self.unsubscribe()
        self.observer.clear()
        for backend in [self.observer, *(process.backend for process in self.processes)]:
            backend.close()


class SharedMemory(FaultyMemory):
    """The records of another one: what a store in memory would be, if processes could share one."""

    shared = True

    def __init__(self, records: Records, clock: Clock) -> None:
        super().__init__(clock=clock)
        self._records = records


def memory(clock: ManualClock) -> Callable[[], Backend]:
    records = Records(1000, clock)
    return lambda: SharedMemory(records, clock)


def valkey(url: str, clock: ManualClock) -> Callable[[], Backend]:
    prefix = uuid.uuid4().hex
    return lambda: FaultyRedis(url, key_prefix=prefix, clock=clock, socket_timeout=30)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("kind", "count"), [("memory", 200), ("valkey", 30)])
def test_the_promises_hold_in_any_order(kind: str, count: int, request: pytest.FixtureRequest) -> None:
    make = memory if kind == "memory" else partial(valkey, request.getfixturevalue("valkey_url"))
    more = 5 if request.config.getoption("whole") else 1
    phases = [Phase.generate, Phase.shrink]  # to explain a failure, hypothesis would trace every line from the start
    steps = settings(examples(count * more), stateful_step_count=50, phases=phases)
    run_state_machine_as_test(cast(Any, lambda: Breaker(make)), settings=steps)
