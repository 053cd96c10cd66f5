"""The breaker around a store: it covers whatever can be asked of it, and says the truth about itself."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from ratelimit_core import (
    BackendError,
    CircuitBreaker,
    CircuitBreakerConfig,
    CircuitBreakerError,
    ConfigurationError,
    Limiter,
    configure,
    get_backend,
)
from ratelimit_core.backends import Backend, DatabaseBackend, MemoryBackend, MultiBackend, RedisBackend
from ratelimit_core.config.sources import setting
from ratelimit_core.testing import ManualClock
from tests import servers

from .conftest import MakeBackend
from .faults import (
    ASK_NO_STORE,
    ASKED_ALL_THE_SAME,
    OPERATIONS,
    REFUSED_WHILE_OPEN,
    Faults,
    FaultyMemory,
    Operation,
    call,
    public_methods,
)

AWAY = BackendError("gone")
THREE: dict[str, Any] = {"failure_threshold": 3, "recovery_timeout": 30}

every_operation = pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
every_covered = pytest.mark.parametrize("operation", REFUSED_WHILE_OPEN.values(), ids=REFUSED_WHILE_OPEN)


def fail(backend: Faults, times: int, operation: Operation = REFUSED_WHILE_OPEN["apply"]) -> None:
    backend.fault = BackendError("gone")
    for _ in range(times):
        with pytest.raises(BackendError, match="gone"):
            operation(backend)


def refused(backend: Backend, operation: Operation = REFUSED_WHILE_OPEN["apply"]) -> CircuitBreakerError:
    with pytest.raises(CircuitBreakerError) as caught:
        operation(backend)
    return caught.value


def state(backend: Backend) -> str:
    status = backend.get_circuit_breaker_status()
    assert status is not None
    return str(status["state"])


# Nothing is left out


def test_every_public_method_is_known_here() -> None:
    assert public_methods(Backend) == {*OPERATIONS, *ASK_NO_STORE}


@pytest.mark.parametrize("kind", [MemoryBackend, RedisBackend, MultiBackend, DatabaseBackend])
def test_no_store_has_a_way_around_its_breaker(kind: type[Backend]) -> None:
    # By commands, which want the error itself.
    housekeeping = {DatabaseBackend: {"prune"}, RedisBackend: {"info"}}.get(kind, set())
    assert public_methods(kind) == public_methods(Backend) | housekeeping
    assert not OPERATIONS.keys() & vars(kind).keys(), "what is asked from outside is the base class's"


# The store fails


@every_operation
def test_a_store_that_answers_is_asked_every_time(make: MakeBackend, operation: Operation) -> None:
    backend = make(circuit_breaker_config=THREE)
    for _ in range(3):
        operation(backend)
    assert backend.asked == 3
    assert state(backend) == "closed"


@every_covered
def test_after_so_many_failures_in_a_row_it_is_not_asked(
    make: MakeBackend, clock: ManualClock, operation: Operation
) -> None:
    backend = make(circuit_breaker_config=THREE)
    fail(backend, 3, operation)
    for other in REFUSED_WHILE_OPEN.values():
        refused(backend, other)
    assert backend.asked == 3
    clock.advance(29.9)
    refused(backend, operation)
    clock.advance(0.1)
    fail(backend, 1, operation)
    assert refused(backend, operation).retry_after == 60
    clock.advance(60)
    backend.fault = None
    operation(backend)
    operation(backend)
    assert state(backend) == "closed"


@pytest.fixture(scope="module")
def stopped() -> str:
    """Where a Valkey has been."""
    with servers.valkey() as url:
        MemoryBackend().incr("key", 1)
        backend = RedisBackend(url)
        assert backend.incr("key", 60) == 1
        backend.close()
    return url


@every_covered
def test_a_server_that_was_stopped_is_a_failure(stopped: str, clock: ManualClock, operation: Operation) -> None:
    backend = RedisBackend(stopped, clock=clock, circuit_breaker_config=THREE)
    for _ in range(3):
        with pytest.raises(BackendError, match=r"ConnectionError|refused"):
            operation(backend)
    error = refused(backend, operation)
    assert (error.breaker_name, error.retry_after) == ("RedisBackend", 30)
    backend.close()


@every_operation
def test_an_error_of_any_kind_is_the_stores_and_keeps_its_cause(make: MakeBackend, operation: Operation) -> None:
    backend = make(name="primary", circuit_breaker_config=THREE)
    backend.fault = RuntimeError("out of ideas")
    with pytest.raises(BackendError, match="primary: RuntimeError: out of ideas") as caught:
        operation(backend)
    assert caught.value.__cause__ is backend.fault
    status = backend.get_circuit_breaker_status()
    assert status is not None
    assert status["failure_count"] == 1


@every_operation
@pytest.mark.parametrize("fault", [ValueError("twice"), ConfigurationError("no such alias"), KeyboardInterrupt()])
def test_nonsense_and_interruptions_are_nobodys_failure(
    make: MakeBackend, operation: Operation, fault: BaseException
) -> None:
    backend = make(circuit_breaker_config={"failure_threshold": 1})
    backend.fault = fault
    with pytest.raises(type(fault)) as caught:
        operation(backend)
    assert caught.value is fault
    status = backend.get_circuit_breaker_status()
    assert status is not None
    assert (status["state"], status["stats"]["failures"]) == ("closed", 0)


def test_an_answer_begins_the_row_anew(make: MakeBackend) -> None:
    backend = make(circuit_breaker_config=THREE)
    for _ in range(5):
        fail(backend, 2)
        backend.fault = None
        backend.incr("key", 60)
    assert state(backend) == "closed"


def test_failures_of_different_operations_are_one_row(make: MakeBackend) -> None:
    backend = make(circuit_breaker_config={"failure_threshold": len(OPERATIONS)})
    for operation in OPERATIONS.values():
        assert state(backend) == "closed"
        fail(backend, 1, operation)
    assert state(backend) == "open"


@pytest.mark.parametrize("operation", ["apply", "aapply"])
def test_an_interrupted_probe_gives_its_place_back(make: MakeBackend, clock: ManualClock, operation: str) -> None:
    backend = make(circuit_breaker_config=THREE)
    fail(backend, 3)
    clock.advance(30)
    backend.fault = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        OPERATIONS[operation](backend)
    status = backend.get_circuit_breaker_status()
    assert status is not None
    assert (status["state"], status["half_open_calls"]) == ("half_open", 0)
    backend.fault = None
    OPERATIONS[operation](backend)
    assert state(backend) == "closed"


def test_a_cancelled_probe_gives_its_place_back(clock: ManualClock) -> None:
    class Hanging(FaultyMemory):
        async def _aapply(self, calls: Any) -> Any:
            await asyncio.sleep(3600)

    backend = Hanging(clock=clock, circuit_breaker_config=THREE)
    fail(backend, 3)
    clock.advance(30)

    async def main() -> None:
        task = asyncio.create_task(backend.aapply([call()]))
        await asyncio.sleep(0)
        assert state(backend) == "half_open"
        with pytest.raises(CircuitBreakerError):
            await backend.aapply([call()])
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    backend.fault = None
    assert backend.incr("key", 60) == 1
    assert state(backend) == "closed"


# Guards have a breaker of their own, and ask all the same


@pytest.mark.parametrize("attempt", ASKED_ALL_THE_SAME.values(), ids=ASKED_ALL_THE_SAME)
def test_an_attempt_is_made_while_it_is_open_and_closes_it(make: MakeBackend, attempt: Operation) -> None:
    backend = make(circuit_breaker_config=THREE)
    fail(backend, 3, attempt)
    refused(backend)
    fail(backend, 1, attempt)
    assert state(backend) == "open"
    backend.fault = None
    assert attempt(backend)
    assert backend.incr("key", 60) == 1
    status = backend.get_circuit_breaker_status()
    assert status is not None
    assert (status["state"], status["failure_count"], status["backoff_time"]) == ("closed", 0, 0)


def test_a_guard_that_gets_through_closes_it(make: MakeBackend, clock: ManualClock) -> None:
    backend = make(circuit_breaker_config=THREE)
    fail(backend, 3)
    backend.fault = None
    CircuitBreaker("payments", backend=backend, clock=clock).acquire()
    assert state(backend) == "closed"


# What it says of itself


def test_a_status_is_true_in_every_state(make: MakeBackend, clock: ManualClock) -> None:
    backend = make(name="primary", circuit_breaker_config=THREE)
    began = clock.now / 1_000_000
    expected: dict[str, Any] = {
        "name": "primary",
        "state": "closed",
        "failure_count": 0,
        "failure_threshold": 3,
        "last_failure_time": None,
        "changed_at": None,
        "next_attempt_time": None,
        "backoff_time": 0,
        "half_open_calls": 0,
        "stats": {"successes": 0, "failures": 0, "rejections": 0},
        "mode": "automatic",
        "mode_until": None,
        "shadow": False,
    }
    assert backend.get_circuit_breaker_status() == expected
    for _ in range(4):
        backend.apply([])
    fail(backend, 2)
    expected |= {"failure_count": 2, "last_failure_time": began}
    expected["stats"] = {"successes": 4, "failures": 2, "rejections": 0}
    assert backend.get_circuit_breaker_status() == expected

    clock.advance(1)
    fail(backend, 1)
    refused(backend)
    expected |= {
        "state": "open",
        "failure_count": 3,
        "last_failure_time": began + 1,
        "changed_at": began + 1,
        "next_attempt_time": began + 31,
        "backoff_time": 30,
    }
    expected["stats"] = {"successes": 4, "failures": 3, "rejections": 1}
    assert backend.get_circuit_breaker_status() == expected

    clock.advance(30)
    seen: list[Any] = []

    def look(calls: Any) -> list[Any]:
        seen.append(backend.get_circuit_breaker_status())
        return []

    backend._apply = look  # type: ignore[method-assign] # to look while it is probed
    assert backend.apply([call()]) == []
    expected |= {"state": "half_open", "changed_at": began + 31, "next_attempt_time": None, "half_open_calls": 1}
    assert seen == [expected]

    expected |= {"state": "closed", "failure_count": 0, "half_open_calls": 0}
    expected["stats"] = {"successes": 5, "failures": 3, "rejections": 1}
    assert backend.get_circuit_breaker_status() == expected


def test_health_says_whether_it_answers(make: MakeBackend) -> None:
    backend = make(name="primary", circuit_breaker_config=THREE)
    health = backend.get_backend_health_status()
    assert (health["name"], health["backend_class"], health["healthy"]) == ("primary", type(backend).__name__, True)
    assert (health["circuit_breaker_enabled"], health["circuit_breaker_available"]) == (True, True)
    fail(backend, 3)
    health = backend.get_backend_health_status()
    assert health["healthy"] is False
    assert health["circuit_breaker"] == backend.get_circuit_breaker_status()
    assert backend.asked == 3, "nobody was asked for that"


def test_a_refusal_tells_the_truth(make: MakeBackend, clock: ManualClock) -> None:
    backend = make(name="primary", circuit_breaker_config=THREE)
    began = clock.now / 1_000_000
    fail(backend, 3)
    clock.advance(10)
    error = refused(backend)
    assert (error.breaker_name, error.state, error.failure_count) == ("primary", "open", 3)
    assert (error.retry_after, error.recovery_time) == (20, 30)
    assert (error.last_failure_time, error.next_attempt_time) == (began, began + 30)


@every_covered
def test_a_reset_closes_it_and_forgets(make: MakeBackend, clock: ManualClock, operation: Operation) -> None:
    backend = make(circuit_breaker_config=THREE)
    for _ in range(3):  # waits of 30, 60 and 120 s
        fail(backend, 3 if state(backend) == "closed" else 1)
        clock.advance(refused(backend).retry_after)
    fail(backend, 1)
    backend.reset_circuit_breaker()
    assert state(backend) == "closed"
    fail(backend, 2)
    backend.fault = None
    operation(backend)
    fail(backend, 3)
    assert refused(backend).retry_after == 30


def test_without_a_breaker_nothing_is_refused(make: MakeBackend) -> None:
    backend = make(enable_circuit_breaker=False)
    fail(backend, 20)
    assert backend.asked == 20
    assert not backend.is_circuit_breaker_enabled()
    assert backend.get_circuit_breaker_status() is None
    health = backend.get_backend_health_status()
    assert (health["healthy"], health["circuit_breaker_enabled"], health["circuit_breaker"]) == (True, False, None)
    backend.reset_circuit_breaker()
    backend.fault = RuntimeError("odd")
    with pytest.raises(BackendError, match="odd"):
        backend.incr("key", 60)
    backend.fault = None
    assert backend.incr("key", 60) == 1


# Settings


def test_it_is_there_by_default_and_opens_at_five(make: MakeBackend) -> None:
    backend = make()
    assert backend.is_circuit_breaker_enabled()
    fail(backend, 5)
    assert refused(backend).retry_after == 60


def test_the_setting_is_the_default_and_ones_own_goes_before_it(make: MakeBackend) -> None:
    early = make()
    configure(circuit_breaker={"failure_threshold": 2, "recovery_timeout": 7})
    for backend in (early, make()):
        fail(backend, 2)
        assert refused(backend).retry_after == 7
    own = make(circuit_breaker_config=CircuitBreakerConfig(failure_threshold=1, recovery_timeout=9))
    fail(own, 1)
    assert refused(own).retry_after == 9


def test_the_setting_may_stand_in_the_environment(monkeypatch: pytest.MonkeyPatch, clock: ManualClock) -> None:
    monkeypatch.setenv("RATELIMIT_CIRCUIT_BREAKER", '{"failure_threshold": 1}')
    backend = FaultyMemory(clock=clock)
    fail(backend, 1)
    refused(backend)


@pytest.mark.parametrize("config", [{"failure_treshold": 3}, {"failure_threshold": 0}])
def test_a_wrong_option_is_refused_where_it_is_written(make: MakeBackend, config: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"failure_thres?hold"):
        make(circuit_breaker_config=config)
    with pytest.raises(ConfigurationError, match=r"failure_thres?hold"):
        make(circuit_breaker_config=config, enable_circuit_breaker=False)
    with pytest.raises(ConfigurationError, match=r"failure_thres?hold"):
        configure(circuit_breaker=config)
    assert setting("circuit_breaker") is None


def test_a_wrong_option_in_the_environment_is_refused_at_the_first_question(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not when the store fails for the first time."""
    monkeypatch.setenv("RATELIMIT_CIRCUIT_BREAKER", '{"failure_treshold": 1}')
    with pytest.raises(ConfigurationError, match="did you mean 'failure_threshold'"):
        Limiter("1/s", key="supplier").hit()


def test_rates_are_for_breakers_that_see_every_call(make: MakeBackend) -> None:
    """In the setting they are meant for others: of a store, what answered is not remembered."""
    configure(circuit_breaker={"failure_threshold": 100, "failure_rate": 0.5, "minimum_calls": 5})
    backend = make()
    for _ in range(20):
        backend.apply([])
    fail(backend, 10)
    assert state(backend) == "closed"


def test_in_the_shadow_it_refuses_nothing_and_says_what_it_would(make: MakeBackend) -> None:
    backend = make(circuit_breaker_config=THREE | {"shadow": True})
    fail(backend, 10)
    status = backend.get_circuit_breaker_status()
    assert status is not None
    assert (status["state"], status["shadow"]) == ("open", True)
    backend.fault = None
    assert backend.incr("key", 60) == 1


# Threads and children


def test_failures_in_flight_are_one_opening(clock: ManualClock) -> None:
    together = threading.Barrier(8)

    class Slow(FaultyMemory):
        def _apply(self, calls: Any) -> Any:
            together.wait(30)
            return super()._apply(calls)

    backend = Slow(clock=clock, circuit_breaker_config=THREE)
    backend.fault = AWAY
    with ThreadPoolExecutor(8) as pool:
        for outcome in [pool.submit(backend.apply, [call()]) for _ in range(8)]:
            assert isinstance(outcome.exception(), BackendError)
    status = backend.get_circuit_breaker_status()
    assert status is not None
    assert (status["state"], status["backoff_time"], status["stats"]["failures"]) == ("open", 30, 8)


def test_one_thread_probes_while_the_others_are_refused(clock: ManualClock) -> None:
    entered, answer = threading.Semaphore(0), threading.Event()

    class Slow(FaultyMemory):
        def _apply(self, calls: Any) -> Any:
            entered.release()
            assert answer.wait(30)
            return super()._apply(calls)

    backend = Slow(clock=clock, circuit_breaker_config=THREE)
    fail(backend, 3, REFUSED_WHILE_OPEN["keys"])
    backend.fault = None
    clock.advance(30)
    with ThreadPoolExecutor(8) as pool:
        probe = pool.submit(backend.apply, [call()])
        assert entered.acquire(timeout=30)
        others = [pool.submit(backend.apply, [call()]) for _ in range(7)]
        assert all(isinstance(other.exception(), CircuitBreakerError) for other in others)
        answer.set()
        assert probe.result()
    assert not entered.acquire(blocking=False)
    assert state(backend) == "closed"


def test_it_is_not_calm_about_a_failure_that_comes_with_a_success(clock: ManualClock) -> None:
    """Else it would let all calls through while it is open."""
    backend = FaultyMemory(clock=clock, circuit_breaker_config=THREE)
    protection = backend._breaker
    assert protection is not None
    fail(backend, 2)
    decide = protection._records.apply
    others: list[threading.Thread] = []

    def failures_meanwhile() -> None:
        for _ in range(3):
            protection.failed("")

    def slow(calls: Any) -> Any:
        verdicts = decide(calls)
        if calls[0].event[2] and not others:  # a success was told, and its teller has yet to take in the answer
            others.append(threading.Thread(target=failures_meanwhile))
            others[0].start()
            others[0].join(0.2)
        return verdicts

    protection._records.apply = slow  # type: ignore[method-assign] # to be in between
    backend.fault = None
    backend.incr("key", 60)
    others[0].join()
    assert (protection.status()["state"], protection.healthy) == ("open", False)
    refused(backend)


def in_child(work: Callable[[], object]) -> int:
    """What a forked child ends with: 0 if ``work`` raised nothing."""
    pid = os.fork()
    if not pid:
        signal.alarm(20)  # a deadlock ends here
        code = 1
        with suppress(BaseException):
            work()
            code = 0
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.fixture
def locked(clock: ManualClock) -> Iterator[FaultyMemory]:
    backend = FaultyMemory(clock=clock, circuit_breaker_config=THREE)
    protection = backend._breaker
    assert protection is not None
    with protection._lock, protection._records._lock, backend._records._lock:
        yield backend


def test_a_child_forked_while_a_thread_held_the_locks_goes_on(locked: FaultyMemory) -> None:
    def work() -> None:
        fail(locked, 3)
        refused(locked)
        locked.reset_circuit_breaker()
        locked.fault = None
        assert locked.incr("key", 60) == 1

    assert in_child(work) == 0


def test_the_configured_backend_has_one_too() -> None:
    configure(backend="memory://", circuit_breaker={"failure_threshold": 4})
    status = get_backend().get_circuit_breaker_status()
    assert status is not None
    assert (status["name"], status["failure_threshold"]) == ("MemoryBackend", 4)
