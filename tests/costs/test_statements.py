"""How many statements a decision takes in a database, BEGIN and COMMIT included, once its records are there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from ratelimit_core import CircuitBreaker, Limiter
from ratelimit_core.backends import Call as Asked
from ratelimit_core.backends import DatabaseBackend
from ratelimit_core.guard import Admission, Guard
from ratelimit_core.policies import FIXED_WINDOW
from ratelimit_core.policies.fixed_window import HIT

from .meter import Call, statements


class Statements(NamedTuple):
    check: int
    """Of limits, one or five; or of one exact log."""
    logs: int
    """Of five exact logs at once."""
    failure: int
    """That is reported to a breaker."""
    asking: int
    """Before a task, its breaker, two rates and how many run at a time."""
    end: int
    """Of a task, which gives its place back."""
    each: int
    """Of 64 batches, each on its own: two limits of a key."""


STATEMENTS = {
    "sqlite": Statements(check=5, logs=9, failure=5, asking=6, end=5, each=4),
    "postgresql": Statements(check=1, logs=1, failure=1, asking=1, end=1, each=1),
}

Count = Callable[[Call], float]


@pytest.fixture(scope="module", params=STATEMENTS)
def alias(request: pytest.FixtureRequest) -> str:
    name: str = request.getfixturevalue(request.param)
    return name


@pytest.fixture
def expected(request: pytest.FixtureRequest, alias: str) -> Statements:
    return STATEMENTS[request.node.callspec.params["alias"]]


@pytest.fixture
def backend(alias: str) -> DatabaseBackend:
    return DatabaseBackend(alias, timeout=5)


@pytest.fixture
def count(alias: str) -> Iterator[Count]:
    with statements(alias) as count:
        yield count


ONE, FIVE = "1000/s", "1000/s;2000/m;3000/h;4000/d;5000/2d"


@pytest.mark.parametrize("rate", [ONE, FIVE])
def test_a_check(expected: Statements, backend: DatabaseBackend, count: Count, rate: str) -> None:
    limiter = Limiter(rate, key="check", algorithm="token_bucket", backend=backend)
    assert count(limiter.hit) == expected.check


def test_a_check_of_exact_logs(expected: Statements, backend: DatabaseBackend, count: Count) -> None:
    assert count(Limiter(ONE, key="log", backend=backend).hit) == expected.check
    assert count(Limiter(FIVE, key="logs", backend=backend).hit) == expected.logs


def test_a_failure(expected: Statements, backend: DatabaseBackend, count: Count) -> None:
    breaker = CircuitBreaker("failing", failure_threshold=1000, cache_ttl=60, backend=backend)
    assert count(lambda: breaker.acquire().failure()) == expected.failure


def test_what_a_task_asks_and_what_it_says_at_its_end(
    expected: Statements, backend: DatabaseBackend, count: Count
) -> None:
    limiter = Limiter("1000/s;2000/m", key="task", algorithm="token_bucket", concurrency=100, backend=backend)
    guard = Guard(CircuitBreaker("task", cache_ttl=0, backend=backend), limiter)
    leaves: list[Admission] = []
    assert count(lambda: leaves.append(guard.acquire())) == expected.asking
    assert count(lambda: leaves.pop().record(None)) == expected.end


def test_batches_each_on_its_own(expected: Statements, backend: DatabaseBackend, count: Count) -> None:
    minute = (1000, 60_000_000)
    batches = [[Asked(FIXED_WINDOW, (f"{i}", q), (HIT, 1), minute) for q in "ab"] for i in range(64)]
    assert count(lambda: backend.apply_each(batches)) == expected.each
