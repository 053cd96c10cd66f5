"""What asked a shared store before leaves it for the test, and returns to it."""

from __future__ import annotations

from uuid import uuid4

from ratelimit_core import CircuitBreaker, Limiter, configure
from ratelimit_core.testing import isolated


def test_guards_leave_the_store_that_they_have_asked(valkey_url: str) -> None:
    configure(backend=valkey_url, key_prefix=f"test-{uuid4().hex}")
    limiter, breaker = Limiter("1/m", key="supplier"), CircuitBreaker("payments", failure_threshold=1)
    assert [limiter.hit().allowed, limiter.hit().allowed] == [True, False]
    breaker.report_failure(ValueError())
    with isolated():
        assert limiter.hit().allowed
        assert breaker.is_allowed()
        assert not limiter.store.shared
    assert not limiter.hit().allowed
    assert breaker.state == "open"
    limiter.reset()
    breaker.reset()


def test_a_block_ends_with_its_test() -> None:
    limiter = Limiter("4/m", key="supplier", local_quota=2)
    with isolated():
        assert limiter.hit().allowed  # and one of the block is left
    with isolated():
        assert sum(limiter.hit().allowed for _ in range(9)) == 4
