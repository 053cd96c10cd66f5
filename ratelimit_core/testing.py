"""For the tests of who uses this library: nothing known, a clock that obeys, and breakers in the state that is wanted.

Nothing here needs pytest; the fixtures of :mod:`ratelimit_core.pytest_plugin` are these functions. What tasks do is in
:mod:`resilient_tasks.testing`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from time import time_ns
from typing import Any
from unittest.mock import patch

from ._util import clock
from .circuit_breaker import CircuitBreaker, cache, circuit_breaker_registry
from .config import sources
from .errors import BackendError, CircuitBreakerError
from .limiter import limiter
from .policies import BREAKER
from .policies.breaker import REPORT
from .protocol.call import Call
from .store import configured, factory, fallback

__all__ = [
    "FrozenTime",
    "ManualClock",
    "breaker_closed",
    "breaker_half_open",
    "breaker_open",
    "frozen_time",
    "isolated",
]


@contextmanager
def isolated(**options: Any) -> Iterator[None]:
    """Begin with nothing known, and leave nothing behind.

    Meanwhile the configured store is a new memory, whatever the project's settings say; ``options`` are for
    :func:`~ratelimit_core.configure`, as in ``isolated(backend="redis://localhost:6379/15")``. Breakers and limiters
    that the project made when it was imported are as on the first day. What is configured, and which breakers are
    defined, is afterwards what it was before.

    A breaker reads its own settings when it is first used, and keeps them.
    """
    breakers = patch.dict(circuit_breaker_registry._breakers)
    try:
        with patch.dict(sources.explicit), patch.dict(factory._registered), breakers:
            configured.configure(**{"backend": "memory://", "backend_options": None, **options})
            _forget()
            yield
    finally:
        configured.forget()
        _forget()


def _forget() -> None:
    """Have everything in this process that remembers forget, but for stores that others share."""
    for each in list(fallback._stores):
        each.local.clear()
        each._away_until = each._same_outage_until = 0
        if not each.shared:
            with suppress(BackendError, CircuitBreakerError):  # one of a test's own, which fails on purpose
                each.backend.clear()
    for state in list(cache._states):
        state.forget()
        state._after_fork()  # nor what it has counted
        state._store = None
    for guard in list(limiter._limiters):
        guard.forget()


class ManualClock:
    """A clock for tests: it stands still until it is told to advance (or to go back)."""

    def __init__(self, start: float = 1_790_000_000.0) -> None:
        self.now = clock.microseconds(start)

    def __call__(self) -> int:
        """The time that it was told."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Move by ``seconds``, which may be negative."""
        self.now += round(seconds * clock.SECOND)


class FrozenTime:
    """What :func:`frozen_time` gives."""

    def __init__(self) -> None:
        self._offset = 0
        self._began = time_ns()

    def advance(self, seconds: float) -> None:
        """Let so many seconds pass; negative ones set the clock back for stores, as an administrator might."""
        self._offset += round(seconds * 1e9)

    def now(self) -> float:
        """Seconds since the epoch."""
        return self._ns() / 1e9

    def _ns(self) -> int:
        return self._began + self._offset


@contextmanager
def frozen_time() -> Iterator[FrozenTime]:
    """Have time stand still for all breakers, limiters and stores of this process, but when it is told to pass.

    It starts at the present, and moves what was made before as well. Waits in place end at once, and let that time
    pass. It moves neither ``time.time()`` nor what other processes decide: a Redis and a database server have their
    own clocks, so test with the memory (:func:`isolated`). Celery's countdowns are not shortened.
    """
    frozen = FrozenTime()
    with patch.multiple(clock, time_ns=frozen._ns, monotonic_ns=frozen._ns, sleep=frozen.advance):
        yield frozen


@contextmanager
def breaker_open(name: str, retry_after: float | None = None) -> Iterator[CircuitBreaker]:
    """Have the breaker ``name`` open, as if its dependency had just failed.

    It may be probed after ``retry_after`` seconds, by default its ``recovery_timeout``. On leaving it is reset.
    """
    with _as_new(name) as breaker:
        _open(breaker, breaker.config.recovery_timeout if retry_after is None else retry_after)
        yield breaker


@contextmanager
def breaker_half_open(name: str) -> Iterator[CircuitBreaker]:
    """Have the breaker ``name`` half-open, with no probe under way: the next call is one. On leaving it is reset."""
    with _as_new(name) as breaker:
        _open(breaker, 1e-6)
        while True:
            try:
                breaker.acquire().cancel()  # the first question after the wait is what makes it half-open
                break
            except CircuitBreakerError as refusal:
                clock.sleep(refusal.retry_after)
        yield breaker


@contextmanager
def breaker_closed(name: str) -> Iterator[CircuitBreaker]:
    """Have the breaker ``name`` closed, whatever fails. On leaving it is reset."""
    with _as_new(name) as breaker:
        breaker.force_closed("a test")
        _relearn(breaker)
        yield breaker


@contextmanager
def _as_new(name: str) -> Iterator[CircuitBreaker]:
    breaker = CircuitBreaker(name)
    breaker.reset("a test")
    try:
        yield breaker
    finally:
        breaker.reset("a test")
        _relearn(breaker)


def _open(breaker: CircuitBreaker, seconds: float) -> None:
    """Report one failure that says how long to wait, whatever the breaker's settings count as one."""
    state = breaker._known
    event = (REPORT, 0, 0, 0, 1, 0, clock.microseconds(seconds), 0, 0)
    state.store.apply([Call(BREAKER, (breaker.name, ""), event, state._policy_config)])
    _relearn(breaker)


def _relearn(breaker: CircuitBreaker) -> None:
    """Have every guard of that name in this process ask anew: those of a template have each a memory of their own."""
    for state in list(cache._states):
        if state.config.name == breaker.name:
            state.forget()
