from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any, cast

import pytest

from ratelimit_core import (
    BackendError,
    Backoff,
    CircuitBreaker,
    CircuitBreakerConfig,
    CircuitBreakerError,
    ConfigurationError,
    Limiter,
    RateLimitExceeded,
    ResilienceError,
    configure,
    get_backend,
    register_backend,
)
from ratelimit_core._util.suggest import not_one_of, unknown_option
from ratelimit_core.backends import MemoryBackend, MultiBackend, RedisBackend
from ratelimit_core.circuit_breaker import circuit_breaker
from ratelimit_core.errors import BackendContention
from ratelimit_core.store.factory import make_backend

ERRORS = [
    CircuitBreakerError(
        "payments",
        "half_open",
        42.0,
        failure_count=3,
        last_failure_time=1.5,
        next_attempt_time=43.5,
        recovery_time=60.0,
    ),
    RateLimitExceeded("supplier", 7.5, limit=10, remaining=0, reset_after=60.0, denied_by=1, reservation_kept=True),
    BackendError("Redis: TimeoutError", 5.0),
    ConfigurationError("rate='10/w' is not a rate"),
    BackendContention("database 'default': others hold these records", 0.3),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_errors_survive_pickle_and_copy_with_all_they_know(error: ResilienceError) -> None:
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is type(error)
        assert (str(twin), repr(twin), twin.args, vars(twin)) == (str(error), repr(error), error.args, vars(error))


@pytest.mark.parametrize("error", ERRORS[:2], ids=lambda error: type(error).__name__)
def test_errors_can_be_made_from_their_args_as_celery_does(error: ResilienceError) -> None:
    assert str(type(error)(*error.args)) == str(error)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (0.25, "0.25 s"), (9.5, "9.5 s"), (42.0, "42 s"), (3600, "3600 s")],
)
def test_flower_shows_who_refuses_and_for_how_long(seconds: float, text: str) -> None:
    error = CircuitBreakerError("payments", "open", seconds)
    assert repr(error) == f"CircuitBreakerError('payments' open, retry in {text})"
    assert repr(RateLimitExceeded("x", seconds)) == f"RateLimitExceeded('x' limited, retry in {text})"


def test_whoever_waits_longer_says_so() -> None:
    error = CircuitBreakerError("payments", "half_open", 1.0).waiting(42.0)
    assert error.retry_after == 42.0
    assert str(error) == "'payments' half-open, retry in 42 s"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_one_tree_and_a_wrong_option_is_a_value_error_too() -> None:
    assert all(isinstance(error, ResilienceError) for error in ERRORS)
    assert isinstance(ERRORS[3], ValueError)
    assert ConfigurationError("no use in waiting").retry_after is None


def test_an_unknown_option_names_the_nearest_or_all() -> None:
    known = ("backend", "key_prefix")
    assert "did you mean 'key_prefix'?" in str(unknown_option("configure()", "keyprefix", known))
    assert "the known options are: backend, key_prefix" in str(unknown_option("configure()", "zzz", known))


def test_a_word_that_does_not_exist_names_all_and_the_nearest() -> None:
    known = ("local", "allow", "deny")
    assert str(not_one_of("on_store_failure", "ALOW", known)) == (
        "on_store_failure='ALOW' should be one of 'local', 'allow', 'deny'; did you mean 'allow'?"
    )
    for far in ("none", None, 5):
        assert str(not_one_of("on_store_failure", far, known)).endswith("'deny'")


MISTYPED: list[tuple[Callable[[], object], str]] = [
    (lambda: Limiter("1/s", key="k", algorithm=cast(Any, "fixed")), "'fixed_window'"),
    (lambda: Limiter("1/s", key="k", on_store_failure=cast(Any, "deni")), "'deny'"),
    (lambda: CircuitBreaker("b", on_store_failure="Local"), "'local'"),
    (lambda: Backoff(jitter=cast(Any, "ful")), "'full'"),
    (lambda: configure(algorithm="leaky"), "'leaky_bucket'"),
    (lambda: MultiBackend([MemoryBackend()], strategy="roundrobin"), "'round_robin'"),
    (lambda: make_backend("memori"), "'memory'"),
    (lambda: make_backend("Redis"), "'redis'"),
    (lambda: make_backend("redi://host"), "'redis://'"),
    (lambda: make_backend("sentinel://host/service"), "'redis+sentinel://'"),
    (lambda: make_backend("djangodb://default"), "'django-db://'"),
    (lambda: get_backend("mi_ne"), "'mine'"),
    (lambda: get_backend("fallbak"), "'fallback'"),
    (
        lambda: make_backend("ratelimit_core.backends.memry.MemoryBackend"),
        "'ratelimit_core.backends.memory.MemoryBackend'",
    ),
    (lambda: make_backend("ratelimit_core.backends.RedisBackand"), "'ratelimit_core.backends.RedisBackend'"),
    (lambda: make_backend("tests.store.test_configured.Kustom"), "'tests.store.test_configured.Custom'"),
    (lambda: make_backend("memory", {"max_key": 5}), "'max_keys'"),
    (lambda: make_backend("memory", {"enable_circuit_braker": False}), "'enable_circuit_breaker'"),
    (lambda: make_backend("redis://host", {"socket_timeuot": 5}), "'socket_timeout'"),
    (lambda: make_backend("redis", {"circuit_breaker_confg": {}}), "'circuit_breaker_config'"),
    (lambda: RedisBackend("redis://host", key_prefixx="x"), "'key_prefix'"),
    (lambda: make_backend("mine", {"siez": 5}), "'size'"),
]


@pytest.mark.parametrize(("mistype", "meant"), MISTYPED, ids=[meant for _, meant in MISTYPED])
def test_what_is_mistyped_is_answered_by_what_was_meant(mistype: Callable[[], object], meant: str) -> None:
    configure(backends=[{"type": "memory", "name": "fallback"}])

    def make(size: int = 1) -> MemoryBackend:
        return MemoryBackend(max_keys=size)

    register_backend("mine", make)
    with pytest.raises(ConfigurationError) as caught:
        mistype()
    assert f"id you mean {meant}?" in str(caught.value)  # Python says so itself from 3.13 on


@pytest.mark.parametrize("backend", ["mongodb://host", "valkey://host", "no.such.Thing", "os.nothing", "xylophone"])
def test_what_is_far_from_all_that_there_is_gets_no_guess(backend: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make_backend(backend)
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: CircuitBreakerConfig(cast(Any, 7), 30),
        lambda: CircuitBreaker(cast(Any, 7)),
        lambda: circuit_breaker(cast(Any, 7))(print),
    ],
    ids=["configuration", "breaker", "decorator"],
)
def test_a_setting_in_the_place_of_the_name_is_answered_by_how_to_write_it(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigurationError, match=r"must be a string, not 7; .* as in failure_threshold=7"):
        make()
