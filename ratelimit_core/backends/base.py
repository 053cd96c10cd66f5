"""What a store has to implement, and what every store can do with it."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from .._util.clock import LONGEST, SECOND, Clock, microseconds
from .._util.interrupts import interruptions
from ..config.breaker import CircuitBreakerConfig
from ..errors import BackendError, ConfigurationError
from ..policies import ANSWER, COUNTER, OTHER_ANSWER, RECORD, Policy, Verdict
from ..policies.counter import HIT, PEEK
from ..protocol.call import Call, Key
from .breaker import StoreBreaker

R = TypeVar("R")


class Backend(ABC):
    """A store. Thread-safe, and usable in a forked child.

    Subclass it for a store of another kind, and implement the six abstract methods. They raise
    :class:`BackendError` if the store does not answer. Callers use the public methods. A circuit breaker in the memory
    of this process guards each of them, so each raises, besides what its own documentation says:

    * :class:`BackendError` if the store does not answer;
    * :class:`CircuitBreakerError` at once, without asking the store, while that breaker is open.

    Args:
        name: what the store is called, in errors and where there are several.
        enable_circuit_breaker: whether its breaker may refuse calls.
        circuit_breaker_config: settings of its breaker, as in :class:`CircuitBreakerConfig`; those of the
            setting ``circuit_breaker`` by default. It counts consecutive failures, and no rates.
        clock: for tests.
    """

    shared = True
    """Whether other processes see what is stored here. Verdicts of a store that is not shared are not cached."""

    def __init__(
        self,
        *,
        name: str = "",
        enable_circuit_breaker: bool = True,
        circuit_breaker_config: CircuitBreakerConfig | Mapping[str, Any] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.name = name or type(self).__name__
        breaker = StoreBreaker(self.name, circuit_breaker_config, clock)
        self._breaker = breaker if enable_circuit_breaker else None

    # What a subclass implements

    @abstractmethod
    def _apply(self, calls: Sequence[Call]) -> list[Verdict]: ...

    @abstractmethod
    def _delete(self, policy: Policy, keys: Sequence[Key]) -> None: ...

    @abstractmethod
    def _keys(self, policy: Policy, most: int | None) -> list[Key]: ...

    @abstractmethod
    def _clear(self) -> None: ...

    @abstractmethod
    def _append(self, key: Key, entry: str, keep: int, seconds: int) -> None: ...

    @abstractmethod
    def _entries(self, key: Key) -> list[str]: ...

    async def _aapply(self, calls: Sequence[Call]) -> list[Verdict]:
        """Apply in a thread. A store whose driver has an asynchronous client overrides this."""
        return await asyncio.to_thread(self._apply, calls)

    async def _aappend(self, key: Key, entry: str, keep: int, seconds: int) -> None:
        """Append in a thread. A store that does not block overrides this."""
        await asyncio.to_thread(self._append, key, entry, keep, seconds)

    # What callers use

    def apply(self, calls: Sequence[Call]) -> list[Verdict]:
        """Decide ``calls`` atomically, in one round trip; if one is denied, nothing is written for any.

        Raises:
            ValueError: two of the calls name the same record.
        """
        return self._with_breaker(self._apply, calls)

    async def aapply(self, calls: Sequence[Call]) -> list[Verdict]:
        """:meth:`apply` without blocking the event loop."""
        with _Attempt(self, self._enter()):
            return await self._aapply(calls)

    def apply_unguarded(self, calls: Sequence[Call]) -> list[Verdict]:
        """:meth:`apply`, also while the breaker is open: for a caller that has a stricter breaker.

        The outcome counts all the same; one answer closes the breaker.
        """
        breaker = self._breaker
        try:  # as _Attempt does, which would add a tenth to the cost of a decision in memory
            verdicts = self._apply(calls)
        except BaseException as error:
            self._on_error(None, error)
            raise
        if breaker is not None:
            breaker.succeeded(None)
        return verdicts

    async def aapply_unguarded(self, calls: Sequence[Call]) -> list[Verdict]:
        """:meth:`apply_unguarded` without blocking the event loop."""
        with _Attempt(self, None):
            return await self._aapply(calls)

    def hit(self, call: Call) -> Callable[[str, str], Verdict] | None:
        """Return a function that decides hits like ``call`` faster than :meth:`apply`; None if there is none.

        The function takes a name and a lease id. ``call`` is a hit that costs 1, of a policy that limits.
        """
        return None

    def delete(self, policy: Policy, keys: Sequence[Key]) -> None:
        """Delete these records and their leases, in one round trip."""
        self._with_breaker(self._delete, policy, keys)

    def keys(self, policy: Policy, most: int | None = None) -> list[Key]:
        """List the records of ``policy`` that are in use, ``most`` at most, without scanning the store.

        The store chooses which. Redis lists those that end last, which are the fullest buckets.
        """
        return self._with_breaker(self._keys, policy, most)

    def clear(self) -> None:
        """Delete everything that this library stored under this backend's prefix."""
        self._with_breaker(self._clear)

    def append(self, key: Key, entry: str, keep: int, seconds: int) -> None:
        """Add ``entry`` to the journal ``key``, which keeps the newest ``keep``, for ``seconds``. One round trip."""
        self._with_breaker(self._append, key, entry, keep, seconds)

    async def aappend(self, key: Key, entry: str, keep: int, seconds: int) -> None:
        """:meth:`append` without blocking the event loop."""
        with _Attempt(self, self._enter()):
            await self._aappend(key, entry, keep, seconds)

    def entries(self, key: Key) -> list[str]:
        """Return the journal ``key``, newest entry first. One round trip."""
        return self._with_breaker(self._entries, key)

    def close(self) -> None:  # noqa: B027 - most stores have nothing to close
        """Close the connections. The backend may be used again afterwards."""

    # Plain counters

    def incr(self, key: str, period: float) -> int:
        """Count one hit of ``key`` and return how many there were since its window began, ``period`` s ago at most.

        The window begins with its first hit. No hit is ever refused. One round trip.

        Raises:
            ConfigurationError: the key is no string, or the period is not between 0 and 400 days.
        """
        if not (type(period) in (int, float) and 0 < period <= LONGEST / SECOND):
            raise ConfigurationError(
                f"incr({key!r}, {period!r}): the period should be seconds, more than 0 and at most 400 days"
            )
        return self._counted(key, HIT, microseconds(period))[ANSWER]

    def get_count(self, key: str, period: float | None = None) -> int:
        """Return how many hits of ``key`` were counted in the current window. One round trip.

        ``period`` is not needed: a window knows how long it lasts.
        """
        return self._counted(key, PEEK)[ANSWER]

    def get_reset_time(self, key: str) -> int | None:
        """Return when the current window of ``key`` ends, in whole seconds since the epoch; None if there is none."""
        verdict = self._counted(key, PEEK)
        return -(-verdict[RECORD + 1] // SECOND) if verdict[OTHER_ANSWER] else None

    def reset(self, key: str) -> None:
        """Delete the hits of ``key``. One round trip."""
        self.delete(COUNTER, [_counter(key)])

    def _counted(self, key: str, op: int, period: int = 0) -> Verdict:
        return self.apply([Call(COUNTER, _counter(key), (op, 1, period), ())])[0]

    # Its breaker

    def get_backend_health_status(self) -> dict[str, Any]:
        """Return how the store is, from what this process has seen: no round trip.

        ``name``, ``backend_class``, ``healthy``, and of its breaker ``circuit_breaker_enabled``,
        ``circuit_breaker_available`` and ``circuit_breaker`` (its status, or None).
        """
        status = self.get_circuit_breaker_status()
        return {
            "name": self.name,
            "backend_class": type(self).__name__,
            "healthy": status is None or status["state"] == "closed",
            "circuit_breaker_enabled": status is not None,
            "circuit_breaker_available": True,
            "circuit_breaker": status,
        }

    def get_circuit_breaker_status(self) -> dict[str, Any] | None:
        """Return the same as :meth:`CircuitBreaker.get_status`; None if it has no breaker. No round trip."""
        return None if self._breaker is None else self._breaker.status()

    def reset_circuit_breaker(self) -> None:
        """Close its breaker and forget the failures."""
        if self._breaker is not None:
            self._breaker.reset()

    def is_circuit_breaker_enabled(self) -> bool:
        """Return whether it has a breaker."""
        return self._breaker is not None

    def _with_breaker(self, operation: Callable[..., R], *arguments: Any) -> R:
        with _Attempt(self, self._enter()):
            return operation(*arguments)

    def _enter(self) -> str:
        return "" if self._breaker is None else self._breaker.enter()

    def _on_error(self, lease_id: str | None, error: BaseException) -> None:
        """Count ``error`` if it is the store's. Raise a BackendError from it if it is the driver's own."""
        breaker = self._breaker
        of_caller = isinstance(error, ValueError) or (isinstance(error, BackendError) and not error.is_outage)
        interrupted = not isinstance(error, Exception) or isinstance(error, tuple(interruptions))
        if interrupted or of_caller:
            if breaker is not None:
                breaker.release(lease_id)
            return
        if breaker is not None:
            breaker.failed(lease_id)
        if not isinstance(error, BackendError):
            raise BackendError(f"{self.name}: {type(error).__name__}: {error}") from error


class _Attempt:
    """Reports to a backend's breaker how the ``with`` block ended, in which the store is called or awaited.

    Args:
        lease_id: what the breaker gave for it; None if the breaker was not asked.
    """

    __slots__ = ("_backend", "_lease_id")

    def __init__(self, backend: Backend, lease_id: str | None) -> None:
        self._backend, self._lease_id = backend, lease_id

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        backend = self._backend
        if error is not None:
            backend._on_error(self._lease_id, error)
        elif backend._breaker is not None:
            backend._breaker.succeeded(self._lease_id)


def _counter(key: object) -> Key:
    if not isinstance(key, str):  # the driver's error about it would count as the store's failure
        raise ConfigurationError(f"key={key!r} should be a string")
    return key, ""
