from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from typing import Any

import pytest

import ratelimit_core
from tests.servers import ROOT

HOMES = {
    "ratelimit_core": {
        *(
            "rate_limit",
            "ratelimit",
            "aratelimit",
            "register_backend",
            "configure",
            "get_backend",
            "Rate",
            "Limiter",
            "Decision",
            "Backoff",
            "parse_retry_after",
        ),
        *("circuit_breaker", "circuit_breaker_registry", "CircuitBreaker", "CircuitBreakerConfig"),
        *("ResilienceError", "CircuitBreakerError", "RateLimitExceeded", "BackendError", "ConfigurationError"),
    },
    "ratelimit_core.circuit_breaker": {
        *("circuit_breaker", "circuit_breaker_registry", "CircuitBreaker", "CircuitBreakerConfig"),
        "CircuitBreakerError",
    },
    "ratelimit_core.backends": {"Backend", "MemoryBackend", "RedisBackend", "DatabaseBackend", "MultiBackend"},
    "resilient_tasks": {"breaker_task", "rate_limited_task", "ResilientTask"},
}
"""The names that people type."""


@pytest.mark.parametrize(
    ("module", "name"), sorted((module, name) for module, names in HOMES.items() for name in names)
)
def test_a_public_name_is_where_people_look_for_it(module: str, name: str) -> None:
    home: Any = importlib.import_module(module)
    assert getattr(home, name) is not None
    assert name in home.__all__


def test_a_name_is_the_same_thing_in_every_place() -> None:
    module = importlib.import_module("ratelimit_core.circuit_breaker")
    for name in HOMES["ratelimit_core"] & HOMES["ratelimit_core.circuit_breaker"] - {"circuit_breaker"}:
        assert getattr(ratelimit_core, name) is getattr(module, name)


IMPORTS = [
    "from ratelimit_core import circuit_breaker",
    "import ratelimit_core.circuit_breaker; circuit_breaker = ratelimit_core.circuit_breaker",
    "import ratelimit_core; circuit_breaker = ratelimit_core.circuit_breaker",
    "from ratelimit_core.circuit_breaker import circuit_breaker",
    "import ratelimit_core.circuit_breaker; from ratelimit_core import circuit_breaker",
    "from ratelimit_core import CircuitBreaker, circuit_breaker",
]


@pytest.mark.parametrize("line", IMPORTS)
def test_the_decorator_works_however_it_is_imported(line: str) -> None:
    code = f"""{line}
@circuit_breaker("one", failure_threshold=1)
def named(): return 1
@circuit_breaker
def bare(): return 2
from ratelimit_core.circuit_breaker import CircuitBreaker, circuit_breaker_registry
assert (named(), bare()) == (1, 2)
assert {{*circuit_breaker_registry._breakers}} == {{"one", "__main__.bare"}}
assert type(named.circuit_breaker) is CircuitBreaker
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd=ROOT)


def test_all_is_complete_and_listed() -> None:
    assert set(ratelimit_core.__all__) == set(ratelimit_core._HOMES) == HOMES["ratelimit_core"]
    assert set(ratelimit_core.__all__) <= set(dir(ratelimit_core))


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'limiter_'"):
        _ = ratelimit_core.limiter_  # type: ignore[attr-defined] # the point of the test
    with pytest.raises(ImportError):
        from ratelimit_core import Limitter  # type: ignore[attr-defined] # noqa: F401 - the point of the test


@pytest.mark.parametrize("name", sorted(HOMES["ratelimit_core"] - {"circuit_breaker_registry"}))
def test_what_people_import_says_what_it_does(name: str) -> None:
    thing = getattr(ratelimit_core, name)
    assert inspect.getdoc(thing)
    if inspect.isclass(thing):
        for attribute, value in vars(thing).items():
            if inspect.isfunction(value) and not attribute.startswith("_"):
                assert inspect.getdoc(value), f"{name}.{attribute}"


def test_the_module_of_the_decorator_stays_a_module() -> None:
    from ratelimit_core.circuit_breaker import circuit_breaker

    assert callable(circuit_breaker)
    assert inspect.ismodule(importlib.import_module("ratelimit_core.circuit_breaker"))
