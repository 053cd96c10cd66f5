"""What people write, as type checkers see it. Read by mypy, never run; each ignore is an error that has to be one."""

from __future__ import annotations

import random
from typing import Any, assert_type

import ratelimit_core
from ratelimit_core import (
    Backoff,
    CircuitBreaker,
    CircuitBreakerConfig,
    CircuitBreakerError,
    Decision,
    Limiter,
    Rate,
    RateLimitExceeded,
    circuit_breaker_registry,
    configure,
    get_backend,
    parse_retry_after,
    register_backend,
)
from ratelimit_core.backends import Backend, DatabaseBackend, MemoryBackend, MultiBackend, RedisBackend
from ratelimit_core.circuit_breaker import Permit, circuit_breaker
from resilient_tasks import breaker_task, rate_limited_task


def configuration() -> None:
    configure(backend="redis://localhost", circuit_breaker={"failure_threshold": 3}, key_prefix="shop")
    assert_type(get_backend(), Backend)
    backends: list[Backend] = [MemoryBackend(max_keys=10), RedisBackend("redis://localhost", socket_timeout=1)]
    configure(backend=backends[0])
    several = MultiBackend([*backends, DatabaseBackend("default", name="last")], strategy="round_robin")
    register_backend("mine", MemoryBackend)
    assert_type(get_backend("mine"), Backend)
    MemoryBackend(enable_circuit_breaker=True, circuit_breaker_config={"failure_threshold": 3})
    assert_type(several.incr("user:123", 60), int)
    assert_type(several.get_count("user:123"), int)
    assert_type(several.get_reset_time("user:123"), int | None)
    several.reset("user:123")
    assert_type(several.is_circuit_breaker_enabled(), bool)
    assert_type(several.get_circuit_breaker_status(), dict[str, Any] | None)
    assert_type(several.get_backend_health_status(), dict[str, Any])
    several.reset_circuit_breaker()
    several.incr(123, 60)  # type: ignore[arg-type] # a key is text
    MultiBackend(["redis://localhost"])  # type: ignore[list-item] # stores, not their URLs
    configure("redis://localhost")  # type: ignore[call-arg] # settings have names


def limits() -> None:
    limiter = Limiter("10/s;1000/h", key="supplier", algorithm="token_bucket", burst=20, concurrency=8)
    Limiter(["10/s", Rate(1000, 3600), Rate.parse("5/d")], key="supplier", on_store_failure="deny")
    assert_type(limiter.hit(2, key="tenant"), Decision)
    assert_type(limiter.peek(), Decision)
    slot = limiter.reserve(30, not_before=1.5)
    assert_type(limiter.redeem(slot), Decision)
    assert_type(slot.retry_after, float)
    assert_type(slot.remaining, int)
    limiter.refund(slot)
    limiter.reset()
    with limiter as permit:
        assert_type(permit, Decision)
    Limiter("10/s")  # type: ignore[call-arg] # of what?
    Limiter("10/s", key="supplier", algorithm="gcra")  # type: ignore[arg-type] # no such algorithm
    Limiter("10/s", key="supplier", on_store_failure="maybe")  # type: ignore[arg-type] # no such choice
    slot.allowed = True  # type: ignore[misc] # a decision is final


async def limits_in_an_event_loop() -> None:
    limiter = Limiter("10/s", key="supplier", concurrency=8)
    decision = await limiter.ahit(2, key="tenant")
    assert_type(decision, Decision)
    assert_type(await limiter.apeek(), Decision)
    reservation = await limiter.areserve(30, not_before=1.5)
    assert_type(await limiter.aredeem(reservation), Decision)
    await limiter.arefund(decision)
    await limiter.arelease(decision)
    async with limiter as entered:
        assert_type(entered, Decision)


def breakers() -> None:
    breaker = CircuitBreaker("payments", failure_threshold=3)
    CircuitBreaker(CircuitBreakerConfig("payments", failure_threshold=3))
    permit = breaker.acquire()
    assert_type(permit, Permit)
    permit.success()
    assert_type(permit.failure(ValueError()), float)

    def charge(order: int, *, currency: str = "EUR") -> str:
        return f"{order} {currency}"

    assert_type(breaker.call(charge, 1, currency="USD"), str)
    breaker.call(charge, "1")  # type: ignore[arg-type] # the arguments are the function's own
    assert_type(breaker.call_with_fallback(charge, charge, 1), str)
    with breaker as entered:
        assert_type(entered, Permit)
    for known in circuit_breaker_registry:
        assert_type(known, CircuitBreaker)
    breaker.force_open("ann", "migration", ttl=600)
    breaker.force_closed(author="ann")
    breaker.disable(reason="broken")
    breaker.shadow()
    breaker.clear_override("ann")
    breaker.reset(author="ann", reason="over")
    assert_type(breaker.state, str)
    assert_type(breaker.stats, dict[str, int])
    assert_type(breaker.get_status(), dict[str, Any])
    assert_type(breaker.history(), list[dict[str, Any]])
    assert_type(circuit_breaker_registry.get_fleet_status(), dict[str, dict[str, Any]])
    breaker.clear_override(ttl=5)  # type: ignore[call-arg] # it is what there is without a mode


async def breakers_in_an_event_loop() -> None:
    breaker = CircuitBreaker("payments")
    permit = await breaker.aacquire()
    assert_type(permit, Permit)
    await permit.asuccess()
    assert_type(await permit.afailure(ValueError()), float)
    await permit.acancel()
    async with breaker as entered:
        assert_type(entered, Permit)


@circuit_breaker("payments", failure_threshold=3)
def guarded(order: int, *, currency: str = "EUR") -> str:
    return f"{order} {currency}"


@CircuitBreaker("payments")
async def guarded_async(order: int) -> str:
    return str(order)


async def guarded_functions_keep_their_signatures() -> None:
    assert_type(guarded(1, currency="USD"), str)
    guarded("1")  # type: ignore[arg-type] # an order is a number
    guarded(1, curency="USD")  # type: ignore[call-arg] # no such argument
    assert_type(await guarded_async(1), str)


def errors_and_waits() -> None:
    try:
        guarded(1)
    except (CircuitBreakerError, RateLimitExceeded) as error:
        assert_type(error.retry_after, float)
        assert_type(parse_retry_after(error), float | None)
    assert_type(Backoff(base=1, max=300, jitter="full").delay(3, floor=1, rng=random.Random(1)), float)
    Backoff(jitter="half")  # type: ignore[arg-type] # no such jitter


@breaker_task(breaker="payments", failure_threshold=3, rate="10/s;5000/h", concurrency=8, queue="billing")
def charge(order_id: int, tenant_id: int) -> str:
    return f"{order_id} {tenant_id}"


@breaker_task
def bare(order_id: int) -> None: ...


@rate_limited_task(rate="10/s", rate_key="{tenant_id}")
def limited(tenant_id: int) -> int:
    return tenant_id


def tasks() -> None:
    result: Any = charge.delay(1, tenant_id=2)
    result.get()
    bare.apply_async((1,), countdown=5)
    limited.s(1)


@ratelimit_core.circuit_breaker("payments")
def guarded_by_the_module(order: int) -> str:
    return str(order)


@ratelimit_core.circuit_breaker
def guarded_without_a_name(order: int) -> str:
    return str(order)


def the_module_that_is_the_decorator_keeps_signatures() -> None:
    assert_type(guarded_by_the_module(1), str)
    assert_type(guarded_without_a_name(1), str)
    guarded_by_the_module("1")  # type: ignore[arg-type] # an order is a number
