"""What becomes of guards whose store has a fault: one story for all stores and faults, and what it measures."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar, get_args

from ratelimit_core import CircuitBreaker, CircuitBreakerError, Limiter, configure
from ratelimit_core.backends import Backend
from ratelimit_core.circuit_breaker import circuit_breaker_registry
from ratelimit_core.config.schema import OnStoreFailure
from ratelimit_core.limiter import Decision
from tests.servers import eventually

from .table import Row

R = TypeVar("R")
T = TypeVar("T")

RETRY_AFTER = 1.0
"""Seconds between two attempts to reach a store that is away: a fifth of what is usual."""
FIRST = 0.3
"""Seconds that the first call may take which finds out."""
LATER = 0.001
"""The same for those that know."""
SLACK = 0.2
"""For a busy machine."""
THRESHOLD = 5


@dataclass(frozen=True, slots=True)
class Fault(Generic[T]):
    """Something that happens to a store of the kind ``T``."""

    name: str
    injected: str
    inject: Callable[[T], object]
    heal: Callable[[T], object] | None = None
    """What ends it, if it does not end by itself."""
    away: bool = True
    """Whether the store can't be asked meanwhile. If not, all is decided as before."""
    first: float = FIRST
    """Seconds that a call may take which asks the store."""
    later: float = LATER
    """Seconds that a call may take which knows of it."""
    recovery: float = RETRY_AFTER
    """Seconds until shared decisions are made again."""
    peers: str = ""

    @property
    def most_calls(self) -> int:
        """How many may reach an upstream that fails. If the breaker is forgotten, the first is of no generation."""
        return THRESHOLD if self.away else THRESHOLD + 1

    def __str__(self) -> str:
        return self.name


class Member:
    """A process of the fleet, with breakers and limiters of its own, that blocks or awaits."""

    def __init__(self, backend: Backend, named: Callable[[str], str], *, awaits: bool) -> None:
        configure(store_retry_interval=RETRY_AFTER)
        circuit_breaker_registry._breakers.clear()
        self.backend = backend
        self.loop = asyncio.new_event_loop() if awaits else None
        self.breakers: dict[OnStoreFailure, CircuitBreaker] = {}
        self.limiters: dict[OnStoreFailure, Limiter] = {}
        for policy in get_args(OnStoreFailure):
            asks: Any = {"on_store_failure": policy, "backend": backend}
            self.breakers[policy] = CircuitBreaker(named(f"{policy}-{awaits}"), failure_threshold=THRESHOLD, **asks)
            # Of one whose record is written by SET: what a set of leases takes, a full Redis lets pass.
            self.limiters[policy] = Limiter("1000/h", key=named(policy), algorithm="fixed_window", **asks)
        self.places = Limiter("3/h", key=named(f"places-{awaits}"), concurrency=2, backend=backend)
        self.took: list[float] = []

    def close(self) -> None:
        if self.loop is not None:
            self.loop.close()
        self.backend.close()

    def _timed(self, blocking: Callable[[], R], awaiting: Callable[[], Coroutine[Any, Any, R]]) -> R:
        began = time.perf_counter()
        try:
            return blocking() if self.loop is None else self.loop.run_until_complete(awaiting())
        finally:
            self.took.append(time.perf_counter() - began)

    def hit(self, limiter: Limiter) -> Decision:
        return self._timed(limiter.hit, limiter.ahit)

    def call(self, breaker: CircuitBreaker, error: Exception | None = None) -> None:
        """A call through the breaker, of an upstream that fails with ``error``."""

        def upstream() -> None:
            if error is not None:
                raise error

        async def asynchronous() -> None:
            upstream()

        async def awaited() -> None:
            await breaker.call(asynchronous)

        self._timed(lambda: breaker.call(upstream), awaited)

    def fails(self, breaker: CircuitBreaker) -> bool:
        """Whether the upstream was called, which failed."""
        try:
            self.call(breaker, ConnectionError("upstream is down"))
        except ConnectionError:
            return True
        except CircuitBreakerError:
            return False
        raise AssertionError("it did not fail")

    def refuses(self, breaker: CircuitBreaker) -> bool:
        try:
            self.call(breaker)
        except CircuitBreakerError:
            return True
        return False

    def is_well(self) -> None:
        """All is decided by the store, which knows no failure."""
        self.do_all_else()
        for policy in get_args(OnStoreFailure):
            eventually(partial(self.shares, policy))  # a busy machine is a fault of its own
            self.call(self.breakers[policy])
        self.took.clear()

    def shares(self, policy: OnStoreFailure = "local") -> bool:
        """Whether the store decides."""
        return not self.hit(self.limiters[policy]).local

    def suffers(self, fault: Fault[Any]) -> int:
        """How many calls reach an upstream that fails as well."""
        if self.loop is not None:
            self.loop.run_until_complete(asyncio.sleep(0.01))  # a loop sees what happens while nobody asks
        found_out = self.hit(self.limiters["local"])
        assert (found_out.allowed, found_out.local) == (True, fault.away)
        if fault.away:
            self._knows(fault)
            self._keeps_to_its_policies()
        called = sum(self.fails(self.breakers["local"]) for _ in range(2 * THRESHOLD))
        assert THRESHOLD <= called <= fault.most_calls
        self.do_all_else()
        assert max(self.took) < fault.first + SLACK
        return called

    def _knows(self, fault: Fault[Any]) -> None:
        before, until = len(self.took), time.monotonic() + RETRY_AFTER / 2
        while time.monotonic() < until and len(self.took) < before + 100:
            self.hit(self.limiters["local"])
        assert statistics.median(self.took[before:]) < fault.later

    def _keeps_to_its_policies(self) -> None:
        allowed, denied = self.hit(self.limiters["allow"]), self.hit(self.limiters["deny"])
        assert (allowed.allowed, allowed.local, allowed.retry_after) == (True, True, 0)
        assert (denied.allowed, denied.local) == (False, True)
        assert 0 < denied.retry_after <= RETRY_AFTER
        assert all(self.fails(self.breakers["allow"]) for _ in range(2 * THRESHOLD))
        eventually(lambda: not self.fails(self.breakers["deny"]), 1.0)  # what was known a moment ago still holds

    def do_all_else(self) -> None:
        """None of this raises, whatever the store does."""
        limiter, breaker = self.places, self.breakers["local"]
        for decision in (limiter.hit(), limiter.reserve(60)):
            limiter.redeem(decision)
            limiter.refund(decision)
            limiter.release(decision)
        limiter.peek()
        limiter.return_unused()
        breaker.peek()
        breaker.get_status()


@contextmanager
def fleet(make: Callable[[], Backend], named: Callable[[str], str] = str) -> Iterator[list[Member]]:
    """One member that blocks and one that awaits, each with a backend of its own; ``named`` chooses their names."""
    with ExitStack() as stack:
        members = [Member(make(), named, awaits=awaits) for awaits in (False, True)]
        for member in members:
            stack.callback(member.close)
        yield members


def endure(fault: Fault[T], target: T, members: Sequence[Member]) -> Row:
    """The story, and what it came to."""
    for member in members:
        member.is_well()
    fault.inject(target)
    ended = time.monotonic()
    called = max(member.suffers(fault) for member in members)
    if fault.heal is not None:
        fault.heal(target)
        ended = time.monotonic()
    for member in members:
        eventually(member.shares)
    recovery = time.monotonic() - ended
    first, second = (member.hit(member.limiters["local"]).remaining for member in members)
    assert second == first - 1, "they share a limit"
    if fault.away:
        assert recovery < fault.recovery + SLACK
        for member in members:  # what was decided without the store is not told to it
            eventually(partial(_is_let_through, member), 2.0)
    return Row(
        "The store",
        fault.name,
        fault.injected,
        worst_call=max(max(member.took) for member in members),
        upstream_calls=f"{called} of {fault.most_calls}",
        recovery=recovery if fault.away else None,
        peers=fault.peers,
    )


def _is_let_through(member: Member) -> bool:
    return not member.refuses(member.breakers["local"])
