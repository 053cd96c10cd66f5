"""Names, definitions, wrong options, and what errors and statuses say."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from ratelimit_core import (
    CircuitBreaker,
    CircuitBreakerConfig,
    CircuitBreakerError,
    circuit_breaker_registry,
    configure,
)
from ratelimit_core._util.clock import LONGEST, SECOND
from ratelimit_core.backends import MemoryBackend
from ratelimit_core.circuit_breaker import circuit_breaker
from ratelimit_core.circuit_breaker.cache import BreakerCache
from ratelimit_core.circuit_breaker.definitions import Definition
from ratelimit_core.errors import ConfigurationError
from ratelimit_core.protocol.breaker import policy_config
from ratelimit_core.store import configured
from tests.circuit_breaker.fleet import Fleet, ask, fail, probe, succeed

# 8: one name, one definition


def test_one_name_with_two_configurations_is_an_error_that_shows_both() -> None:
    CircuitBreaker("payments", failure_threshold=3)
    with pytest.raises(ConfigurationError) as caught:
        CircuitBreaker("payments", failure_threshold=4)
    message = str(caught.value)
    assert "'payments'" in message
    assert message.index("failure_threshold=3") < message.index("failure_threshold=4")


def test_it_is_an_error_where_the_decorator_runs() -> None:
    circuit_breaker("payments", failure_threshold=3)(print)
    with pytest.raises(ConfigurationError):
        circuit_breaker("payments", failure_threshold=4)(print)


def test_the_same_definition_twice_is_one_breaker() -> None:
    one, same = (CircuitBreaker("payments", failure_threshold=1) for _ in range(2))
    fail(one)
    assert ask(same) is None


def test_what_a_definition_spells_out_may_be_the_default() -> None:
    CircuitBreaker("payments", failure_threshold=5, recovery_timeout=60)
    CircuitBreaker("payments", recovery_timeout=60.0)


def test_a_name_is_a_reference_resolved_at_first_use() -> None:
    reference = CircuitBreaker("payments")
    registered = circuit_breaker_registry.get_or_create("payments")
    CircuitBreaker("payments", failure_threshold=1)
    assert reference.config.failure_threshold == 1
    assert registered.config.failure_threshold == 1
    fail(reference)
    assert ask(registered) is None


def test_a_reference_that_was_used_can_not_be_defined_otherwise_later() -> None:
    succeed(CircuitBreaker("payments"))
    with pytest.raises(ConfigurationError, match="failure_threshold=5"):
        CircuitBreaker("payments", failure_threshold=1)


def test_a_breaker_from_a_configuration() -> None:
    config = CircuitBreakerConfig("payments", failure_threshold=1)
    assert CircuitBreaker(config).config == config
    assert CircuitBreaker("payments").config == config
    assert circuit_breaker_registry.get_or_create("other", config).config.failure_threshold == 1
    assert circuit_breaker_registry.get_or_create("third", {"failure_threshold": 2}).config.failure_threshold == 2


def test_the_registry_refuses_what_a_definition_refuses() -> None:
    known = circuit_breaker_registry.get_or_create("payments", {"failure_threshold": 3})
    assert circuit_breaker_registry.get_or_create("payments", {"failure_threshold": 3}) is known
    assert circuit_breaker_registry.get_or_create("payments") is known
    for different in ({"failure_threshold": 4}, CircuitBreakerConfig("payments", failure_threshold=4)):
        with pytest.raises(ConfigurationError, match=r"(?s)failure_threshold=3.*failure_threshold=4"):
            circuit_breaker_registry.get_or_create("payments", different)
    with pytest.raises(ConfigurationError, match="did you mean 'failure_threshold'"):
        circuit_breaker_registry.get_or_create("payments", {"failure_treshold": 3})
    own = circuit_breaker_registry.get_or_create("payments", {"failure_threshold": 3, "fallback_function": str})
    assert own.options["fallback_function"] is str


def test_what_is_left_out_comes_from_the_settings() -> None:
    breaker = CircuitBreaker("payments", recovery_timeout=10)
    configure(circuit_breaker={"failure_threshold": 7, "recovery_timeout": 20})
    assert (breaker.config.failure_threshold, breaker.config.recovery_timeout) == (7, 10)


def test_a_probe_lasts_as_long_as_a_call_may_unless_somebody_says_otherwise() -> None:
    breaker = CircuitBreaker("payments", failure_threshold=7)
    for seconds in (30, 20):
        breaker.extend_probe_timeout(seconds)
    assert breaker.config.probe_timeout == 30, "the longest"
    breaker.extend_probe_timeout(90)
    assert breaker.config.probe_timeout == 30, "it is in use"
    said = CircuitBreaker("mail", probe_timeout=10)
    said.extend_probe_timeout(30)
    assert said.config.probe_timeout == 10
    configure(circuit_breaker={"probe_timeout": 20})
    by_the_setting = CircuitBreaker("search")
    by_the_setting.extend_probe_timeout(30)
    assert by_the_setting.config.probe_timeout == 20


def test_one_name_on_two_backends_is_an_error() -> None:
    CircuitBreaker("payments", backend=MemoryBackend(), failure_threshold=3)
    with pytest.raises(ConfigurationError, match="different backends"):
        CircuitBreaker("payments", backend=MemoryBackend(), failure_threshold=3)
    with pytest.raises(ConfigurationError, match="different backends"):
        CircuitBreaker("payments", backend=MemoryBackend()).acquire()


def test_each_function_keeps_its_own_fallback() -> None:
    def guarded(fallback: Callable[[], str]) -> Callable[[], str]:
        @circuit_breaker("payments", failure_threshold=1, fallback_function=fallback)
        def function() -> str:
            raise ConnectionError

        return function

    first, second = guarded(lambda: "first"), guarded(lambda: "second")
    with pytest.raises(ConnectionError):
        first()
    assert (first(), second()) == ("first", "second")


def test_a_decorated_function_is_named_after_itself_and_shows_its_breaker() -> None:
    @circuit_breaker()
    def charge() -> None:
        """Charge it."""

    assert charge.__doc__ == "Charge it."
    assert charge.circuit_breaker.name.endswith("charge")  # type: ignore[attr-defined] # set by the decorator


def test_the_registry_lists_resets_and_removes() -> None:
    breaker = CircuitBreaker("payments", failure_threshold=1)
    fail(breaker)
    assert [each.name for each in circuit_breaker_registry] == ["payments"]
    assert circuit_breaker_registry.get("payments") is breaker
    assert circuit_breaker_registry.get_all_status()["payments"]["state"] == "open"
    circuit_breaker_registry.reset_all()
    assert breaker.state == "closed"
    circuit_breaker_registry.remove("payments")
    assert circuit_breaker_registry.get("payments") is None


# Wrong options

WRONG: dict[str, list[Any]] = {
    "failure_threshold": [-1, 0, 1.5, True, "5", None, 10**9],
    "success_threshold": [0, True],
    "half_open_max_calls": [0, -1, 2.0],
    "minimum_calls": [0],
    "recovery_timeout": [-1, 0, float("nan"), float("inf"), True, "60", None, 500 * 86400],
    "reset_timeout": [-1, float("nan")],
    "probe_timeout": [0, float("nan"), 500 * 86400],
    "exponential_backoff_max": [-1, float("inf")],
    "exponential_backoff_multiplier": [0.5, 0, -1, float("nan"), 101, True],
    "window": [0, -60, float("nan"), 31 * 86400],
    "failure_rate": [0, -0.1, 1.1, 50, float("nan"), True],
    "cache_ttl": [-1, float("nan"), float("inf"), True],
    "slow_call_rate": [0.5],  # without slow_call_duration
    "slow_call_duration": [1],  # without slow_call_rate
    "expected_exception": ["ConnectionError", ConnectionError(), [ConnectionError], (ConnectionError, str), None],
    "ignored_exceptions": [KeyError(), [KeyError], None],
    "success_exceptions": [404, {KeyError}],
    "is_failure": [True, "None"],
    "fallback_function": ["cached"],
    "respect_retry_after": ["no", 1],
    "on_store_failure": ["sometimes", True],
}


@pytest.mark.parametrize(("option", "value"), [(option, value) for option in WRONG for value in WRONG[option]])
def test_a_wrong_value_is_refused_where_it_is_written(option: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=option):
        CircuitBreaker("payments", **{option: value})
    with pytest.raises(ConfigurationError, match="'payments'"):
        circuit_breaker("payments", **{option: value})(print)
    assert circuit_breaker_registry.get("payments") is None


@pytest.mark.parametrize(
    ("given", "meant"),
    [("failure_treshold", "failure_threshold"), ("recovery", "recovery_timeout"), ("expected_exceptions", "expected_")],
)
def test_an_unknown_option_is_refused_with_the_nearest_right_one(given: str, meant: str) -> None:
    options: dict[str, Any] = {given: 3}
    with pytest.raises(ConfigurationError, match=f"{given}.*did you mean '{meant}"):
        CircuitBreaker("payments", **options)


@pytest.mark.parametrize("name", ["", None, 5, b"payments"])
def test_a_breaker_needs_a_name(name: Any) -> None:
    with pytest.raises(ConfigurationError, match="must be a string" if name != "" else "needs a name"):
        CircuitBreaker(name)


def test_a_generator_is_refused_where_the_decorator_runs() -> None:
    with pytest.raises(ConfigurationError, match="generator"):

        @circuit_breaker("payments")
        def pages() -> Any:
            yield 1


@pytest.mark.every_store
def test_the_longest_spans_stay_where_numbers_are_exact(fleet: Fleet) -> None:
    """Lua's doubles are exact below 2**53: no product of the policy may reach that."""
    most = LONGEST / SECOND
    options: dict[str, Any] = {
        "failure_threshold": 1,
        "recovery_timeout": 3_999_999.999_999,
        "exponential_backoff_multiplier": 1.0,
        "exponential_backoff_max": 3_999_999.999_999,
        "reset_timeout": most,
        "probe_timeout": most,
        "cache_ttl": most,
        "window": 30 * 86400,
        "failure_rate": 0.999,
        "slow_call_rate": 0.999,
        "slow_call_duration": most,
        "minimum_calls": 1_000_000,
        "half_open_max_calls": 1_000_000,
        "success_threshold": 1_000_000,
    }
    breaker = fleet.process(**options)
    config = policy_config(breaker.config)
    products = [
        config.recovery_timeout * config.backoff_permille + 999,
        config.window * 1000,
        fleet.clock.now + max(config),
    ]
    assert max(products) < 2**53
    fail(breaker)
    assert breaker.get_status()["backoff_time"] == 3_999_999.999_999
    fleet.clock.advance(4_000_000)
    probe(breaker).failure()
    assert breaker.get_status()["backoff_time"] == 3_999_999.999_999


@pytest.mark.parametrize("option", ["recovery_timeout", "exponential_backoff_max"])
@pytest.mark.parametrize(("longest", "multiplier"), [(40_000.01, 100), (4_000_000, 1.1)])
def test_a_wait_that_would_overflow_is_refused(option: str, longest: float, multiplier: float) -> None:
    options: dict[str, Any] = {option: longest, "exponential_backoff_multiplier": multiplier}
    with pytest.raises(ConfigurationError, match="exponential_backoff_max"):
        CircuitBreakerConfig("payments", **options)


# What errors and statuses say


def error() -> CircuitBreakerError:
    return CircuitBreakerError(
        "payments", "half_open", 41.6, failure_count=5, last_failure_time=1.5, next_attempt_time=2.5, recovery_time=60
    )


def test_the_error_reads_like_a_sentence() -> None:
    assert str(error()) == "'payments' half-open, retry in 42 s"
    assert repr(error()) == "CircuitBreakerError('payments' half-open, retry in 42 s)"


@pytest.mark.parametrize("clone", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy, copy.deepcopy])
def test_the_error_survives_the_way_to_another_process(clone: Callable[[Exception], Exception]) -> None:
    again = clone(error())
    assert isinstance(again, CircuitBreakerError)
    assert (vars(again), str(again), again.args) == (vars(error()), str(error()), error().args)


def test_a_status_is_true_in_every_state(fleet: Fleet) -> None:
    breaker = fleet.process(failure_threshold=2, half_open_max_calls=2, success_threshold=3)
    began = fleet.clock.now / SECOND
    expected: dict[str, Any] = {
        "name": "upstream",
        "state": "closed",
        "failure_count": 0,
        "failure_threshold": 2,
        "last_failure_time": None,
        "changed_at": None,
        "next_attempt_time": None,
        "backoff_time": 0,
        "half_open_calls": 0,
        "stats": {"successes": 0, "failures": 0, "rejections": 0, "shadow_rejections": 0},
        "mode": "automatic",
        "mode_until": None,
        "shadow": False,
        "author": "",
        "reason": "",
    }
    status = breaker.get_status()
    assert status.pop("changed_at") in (None, began)
    assert status == {key: value for key, value in expected.items() if key != "changed_at"}

    succeed(breaker)
    fail(breaker, 2)
    ask(breaker)
    expected |= {
        "state": "open",
        "failure_count": 2,
        "last_failure_time": began,
        "changed_at": began,
        "next_attempt_time": began + 60,
        "backoff_time": 60,
        "stats": {"successes": 1, "failures": 2, "rejections": 1, "shadow_rejections": 0},
    }
    assert breaker.get_status() == expected

    fleet.clock.advance(61)
    permits = [probe(breaker), probe(breaker)]
    expected |= {"state": "half_open", "changed_at": began + 61, "next_attempt_time": None, "half_open_calls": 2}
    assert breaker.get_status() == expected

    permits.pop().success()
    assert breaker.get_status()["half_open_calls"] == 1
    permits.pop().success()
    succeed(breaker)
    assert breaker.get_status() | {"stats": None} == expected | {
        "state": "closed",
        "failure_count": 0,
        "half_open_calls": 0,
        "stats": None,
    }
    assert breaker.stats == {"successes": 4, "failures": 2, "rejections": 1, "shadow_rejections": 0}


def test_a_refusal_by_busy_probes_names_no_time_that_has_passed(fleet: Fleet) -> None:
    breaker = fleet.process(failure_threshold=1)
    fail(breaker)
    fleet.clock.advance(61)
    probe(breaker)
    with pytest.raises(CircuitBreakerError) as caught:
        breaker.acquire()
    assert (caught.value.state, caught.value.next_attempt_time) == ("half_open", None)
    assert 0 < caught.value.retry_after <= 60


def test_the_default_backend_is_memory() -> None:
    assert isinstance(configured.get_backend(), MemoryBackend)


def test_an_instance_of_a_template_is_no_definition_of_its_own() -> None:
    breaker = CircuitBreaker("mail:{tenant}", backend=MemoryBackend(), failure_threshold=2).bind(tenant=1)
    breaker.extend_probe_timeout(5)
    breaker.call(len, "")
    assert [*circuit_breaker_registry._breakers] == ["mail:{tenant}"]
    assert [*circuit_breaker_registry.get_all_status()] == ["mail:1"]


def test_functions_that_are_first_called_at_once_share_one_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    both, made = threading.Barrier(2), []
    make = Definition.make_cache

    def make_slowly(definition: Definition[Any], **options: Any) -> BreakerCache:
        made.append(definition)
        with suppress(threading.BrokenBarrierError):
            both.wait(0.5)  # for the other thread, if it may make one as well
        return make(definition, **options)

    monkeypatch.setattr(Definition, "make_cache", make_slowly)
    breaker = CircuitBreaker("shared", backend=MemoryBackend())
    functions = [breaker(len), breaker(repr)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda function: function(""), functions))
    assert len(made) == 1
    assert breaker.stats["successes"] == 2
