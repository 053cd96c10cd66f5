"""Helpers for tests of code that uses this library: isolation, controlled time, and breakers in a chosen state.

Nothing here needs pytest. The fixtures of :mod:`ratelimit_core.pytest_plugin` call these functions. Helpers for tasks
are in :mod:`resilient_tasks.testing`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from time import time_ns
from typing import Any
from unittest.mock import patch

from ._util import clock
from .circuit_breaker import CircuitBreaker
from .circuit_breaker.breaker import cache_of
from .circuit_breaker.cache import caches
from .circuit_breaker.definitions import definitions
from .config import sources
from .errors import BackendError, CircuitBreakerError
from .limiter import limiter
from .policies.circuit_breaker import REPORT
from .protocol.breaker import BreakerEvent
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
    """Run the block without the earlier state of this process. Afterwards, remove the block's state from this process.

    Inside the block, the configured store is a new memory backend, whatever the project's settings say. ``options`` are
    passed to :func:`~ratelimit_core.configure`, as in ``isolated(backend="redis://localhost:6379/15")``. A store that
    other processes share keeps its records, before and after the block. Breakers and limiters that the project created
    at import use the block's store, too, unless they have a ``backend`` of their own. After the block, the earlier
    configuration and breaker definitions are restored.

    A breaker reads its settings only once, when it is first used. The block does not change the settings of a breaker
    that was used before.
    """
    breakers = patch.dict(definitions)
    try:
        with patch.dict(sources.explicit), patch.dict(factory._registered), breakers:
            configured.configure(**{"backend": "memory://", "backend_options": None, **options})
            _forget()
            yield
    finally:
        configured.forget()
        _forget()


def _forget() -> None:
    """Clear all state of this process. A store that other processes share keeps its records."""
    for each in list(fallback._stores):
        each.reset_local_state()
        if not each.shared:
            with suppress(BackendError, CircuitBreakerError):  # the backend of a test may fail on purpose
                each.backend.clear()
    for cache in caches():
        cache.reset_local_state()
    limiter.reset_local_state()


class ManualClock:
    """A clock for tests. The time changes only when a test moves it, forwards or backwards."""

    def __init__(self, start: float = 1_790_000_000.0) -> None:
        self.now = clock.microseconds(start)

    def __call__(self) -> int:
        """Return the time in microseconds since the epoch."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Move the time forwards by ``seconds``, or backwards if the number is negative."""
        self.now += round(seconds * clock.SECOND)


class FrozenTime:
    """A stopped clock, which :func:`frozen_time` yields."""

    def __init__(self) -> None:
        self._offset = 0
        self._began = time_ns()

    def advance(self, seconds: float) -> None:
        """Move the time forwards by ``seconds``, or backwards if the number is negative."""
        self._offset += round(seconds * 1e9)

    def now(self) -> float:
        """Return the seconds since the epoch."""
        return self._ns() / 1e9

    def _ns(self) -> int:
        return self._began + self._offset


@contextmanager
def frozen_time() -> Iterator[FrozenTime]:
    """Stop the time of all breakers, limiters and stores of this process. ``advance`` moves the time.

    The frozen time starts at the present time. Objects that were created before the block also use the frozen time. A
    task that has to wait in its worker does not block. It moves the frozen time by the length of the wait instead.
    ``time.time()``, Celery's countdowns and other processes are not affected. A Redis or database server has its own
    clock, so use the memory backend of :func:`isolated`.
    """
    frozen = FrozenTime()
    with patch.multiple(clock, time_ns=frozen._ns, monotonic_ns=frozen._ns, sleep=frozen.advance):
        yield frozen


@contextmanager
def breaker_open(name: str, retry_after: float | None = None) -> Iterator[CircuitBreaker]:
    """Open the breaker ``name``, as if its dependency had just failed. Reset the breaker at the end of the block.

    The breaker permits a probe after ``retry_after`` seconds, by default after its ``recovery_timeout``.
    """
    with _as_new(name) as breaker:
        _open(breaker, breaker.config.recovery_timeout if retry_after is None else retry_after)
        yield breaker


@contextmanager
def breaker_half_open(name: str) -> Iterator[CircuitBreaker]:
    """Make the breaker ``name`` half-open without a running probe. Reset the breaker at the end of the block.

    The next call is a probe.
    """
    with _as_new(name) as breaker:
        _open(breaker, 1e-6)
        while True:
            try:
                breaker.acquire().cancel()  # the first permit after the wait makes the breaker half-open
                break
            except CircuitBreakerError as error:
                clock.sleep(error.retry_after)
        yield breaker


@contextmanager
def breaker_closed(name: str) -> Iterator[CircuitBreaker]:
    """Keep the breaker ``name`` closed, even if calls fail. Reset the breaker at the end of the block."""
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
    """Report a failure that opens the breaker for ``seconds``, regardless of its ``expected_exception``."""
    cache = cache_of(breaker)
    cache.store.apply([cache.call(BreakerEvent(REPORT, failures=1, duration=clock.microseconds(seconds)))])
    _relearn(breaker)


def _relearn(breaker: CircuitBreaker) -> None:
    """Drop this process's cached verdicts of the breaker.

    Several breaker objects may have the same name, and each of them may have its own cache.
    """
    for cache in caches():
        if cache.config.name == breaker.name:
            cache.forget()
