from __future__ import annotations

import copy
import pickle

import pytest

from ratelimit_core import (
    BackendError,
    CircuitBreakerError,
    ConfigurationError,
    RateLimited,
    ResilienceError,
)
from ratelimit_core.errors import unknown_option

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
    RateLimited("supplier", 7.5, limit=10, remaining=0, reset_after=60.0, which=1, keeps_slot=True),
    BackendError("Redis: TimeoutError", 5.0),
    ConfigurationError("rate='10/w' is not a rate"),
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
    assert repr(RateLimited("x", seconds)) == f"RateLimited('x' limited, retry in {text})"


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
    assert "known are: backend, key_prefix" in str(unknown_option("configure()", "zzz", known))
