"""The base class of all stores: the methods that callers use, and the methods that a subclass implements.

This module has over 300 lines because each method of a store is documented here, and nowhere else.
"""

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
from ..protocol.call import Call, Key, is_allowed
from .batches import Batches, answers, to_decide
from .breaker import StoreBreaker

R = TypeVar("R")


class Backend(ABC):
    """A backend: it runs policies in one kind of store. It is thread-safe, and usable in a forked child.

    For another kind of store, write a subclass that implements the six abstract methods. If the store does not answer,
    these methods raise :class:`BackendError`.

    Callers use the public methods. Each backend object has a circuit breaker, whose state is in this process. Methods
    that ask the store therefore raise two errors besides those in their own documentation:

    * :class:`BackendError` if the store does not answer, or can't carry out the request;
    * :class:`CircuitBreakerError` at once, without asking the store, if the breaker rejects the request. The two
      ``..._unguarded`` methods ask the store even then, so they do not raise this error.

    Args:
        name: the name of the store in errors and in its health status. The default is the name of the class.
        enable_circuit_breaker: whether the store has a circuit breaker.
        circuit_breaker_config: settings of the store's breaker, as in :class:`CircuitBreakerConfig`. The default is
            the setting ``circuit_breaker``. This breaker counts consecutive failures only: rates are ignored.
        clock: a function that returns the time in µs; for tests.
    """

    shared = True
    """Whether other processes see what is stored here. If not, limiters do not cache denials."""

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
        """Call :meth:`_apply` in a thread. A subclass may override this method to do without a thread."""
        return await asyncio.to_thread(self._apply, calls)

    def _apply_each(self, batches: Batches, most: int | None) -> list[list[Verdict]]:
        """Decide one batch after the other with :meth:`_apply`: one round trip, and one time, for each batch.

        A store that decides all batches in one round trip overrides this method. So does a subclass of such a store
        that overrides :meth:`_apply`. Neither ``batches`` nor a batch is empty, and ``most`` is None or at least 1.
        Undecided batches at the end may be left out of the result.
        """
        found: list[list[Verdict]] = []
        allowed = 0
        for calls in batches:
            if allowed == most:
                break
            found.append(self._apply(calls))
            allowed += is_allowed(found[-1])
        return found

    async def _aapply_each(self, batches: Batches, most: int | None) -> list[list[Verdict]]:
        """Call :meth:`_apply_each` in a thread. A store that does not block overrides this method."""
        return await asyncio.to_thread(self._apply_each, batches, most)

    async def _aappend(self, key: Key, entry: str, keep: int, seconds: int) -> None:
        """Call :meth:`_append` in a thread. A subclass may override this method to do without a thread."""
        await asyncio.to_thread(self._append, key, entry, keep, seconds)

    # What callers use

    def apply(self, calls: Sequence[Call]) -> list[Verdict]:
        """Decide ``calls`` together. If one call is denied, nothing is written for any call.

        Usually this is atomic and costs one round trip. The classes of the stores document the exceptions.

        Raises:
            ValueError: two calls have the same policy and key.
        """
        return self._with_breaker(self._apply, calls)

    async def aapply(self, calls: Sequence[Call]) -> list[Verdict]:
        """Do the same as :meth:`apply`, without blocking the event loop."""
        with _Attempt(self, self._enter()):
            return await self._aapply(calls)

    def apply_unguarded(self, calls: Sequence[Call]) -> list[Verdict]:
        """Do the same as :meth:`apply`, but ask the store even while the breaker is open.

        After a failure, the caller itself has to wait before it calls this method again, as guards do. The breaker
        counts failures as usual. One answer of the store closes the breaker.
        """
        breaker = self._breaker
        try:  # not `with _Attempt`, which would make a decision in memory a tenth slower
            verdicts = self._apply(calls)
        except BaseException as error:
            self._on_error(None, error)
            raise
        if breaker is not None:
            breaker.succeeded(None)
        return verdicts

    async def aapply_unguarded(self, calls: Sequence[Call]) -> list[Verdict]:
        """Do the same as :meth:`apply_unguarded`, without blocking the event loop."""
        with _Attempt(self, None):
            return await self._aapply(calls)

    def apply_each(self, batches: Batches, most: int | None = None) -> list[list[Verdict]]:
        """Decide each batch of calls on its own, one after the other, at one moment and in one round trip.

        The result is the same as if :meth:`apply` was called for each batch: a later batch sees what an earlier batch
        wrote, so several batches may have the same record. If one call of a batch is denied, nothing is written for
        that batch, and the next batch is decided. ``apply_each([[hit], [hit], [hit]])`` takes what a limit allows, up
        to three hits.

        A Redis Cluster and a MultiBackend may need several round trips: see :class:`RedisBackend` and
        :class:`MultiBackend`. A subclass with only the six abstract methods needs one round trip for each batch.

        Args:
            most: the maximum number of batches to allow. The batches after them are not decided.

        Returns:
            The verdicts of each batch. The list of an undecided batch is empty, as is the list of a batch without
            calls, which does not count for ``most``.

        Raises:
            ValueError: two calls of one batch have the same policy and key. Nothing is decided.
            BackendError: the store does not answer. Some of the batches may have been decided.
        """
        asked = to_decide(batches, most)
        return answers(batches, self._with_breaker(self._apply_each, asked, most) if asked else [])

    async def aapply_each(self, batches: Batches, most: int | None = None) -> list[list[Verdict]]:
        """Do the same as :meth:`apply_each`, without blocking the event loop."""
        asked = to_decide(batches, most)
        if not asked:
            return answers(batches, [])
        with _Attempt(self, self._enter()):
            return answers(batches, await self._aapply_each(asked, most))

    def apply_each_unguarded(self, batches: Batches, most: int | None = None) -> list[list[Verdict]]:
        """Do the same as :meth:`apply_each`, even while the breaker is open: see :meth:`apply_unguarded`."""
        asked = to_decide(batches, most)
        if not asked:
            return answers(batches, [])
        with _Attempt(self, None):
            return answers(batches, self._apply_each(asked, most))

    async def aapply_each_unguarded(self, batches: Batches, most: int | None = None) -> list[list[Verdict]]:
        """Do the same as :meth:`apply_each_unguarded`, without blocking the event loop."""
        asked = to_decide(batches, most)
        if not asked:
            return answers(batches, [])
        with _Attempt(self, None):
            return answers(batches, await self._aapply_each(asked, most))

    def hit(self, call: Call) -> Callable[[str, str], Verdict] | None:
        """Return a function that decides hits and is faster than :meth:`apply`. Return None if the store has none.

        The function takes a name and a lease id, and returns the verdict on ``call`` with this name and lease id.

        Args:
            call: a hit with cost 1, of one of the policies :data:`~ratelimit_core.policies.LIMITS`.
        """
        return None

    def delete(self, policy: Policy, keys: Sequence[Key]) -> None:
        """Delete these records and their leases. Costs one round trip to each server that has some of the records."""
        self._with_breaker(self._delete, policy, keys)

    def keys(self, policy: Policy, most: int | None = None) -> list[Key]:
        """Return the keys of at most ``most`` records of ``policy`` that are in use, without scanning the store.

        If more records are in use, the store chooses some of them. A single Redis server chooses the records that
        expire last.
        """
        return self._with_breaker(self._keys, policy, most)

    def clear(self) -> None:
        """Delete everything that this library stored under this backend's prefix."""
        self._with_breaker(self._clear)

    def append(self, key: Key, entry: str, keep: int, seconds: int) -> None:
        """Add ``entry`` to the journal ``key``. Costs one round trip, and in Redis another one about once a day.

        Args:
            keep: the maximum number of entries. Older entries are deleted.
            seconds: how long the journal is kept after this entry.
        """
        self._with_breaker(self._append, key, entry, keep, seconds)

    async def aappend(self, key: Key, entry: str, keep: int, seconds: int) -> None:
        """Do the same as :meth:`append`, without blocking the event loop."""
        with _Attempt(self, self._enter()):
            await self._aappend(key, entry, keep, seconds)

    def entries(self, key: Key) -> list[str]:
        """Return the entries of the journal ``key``, the newest first. Costs one round trip."""
        return self._with_breaker(self._entries, key)

    def close(self) -> None:  # noqa: B027 - most stores have nothing to close
        """Close the connections. The backend may be used again afterwards."""

    # Plain counters

    def incr(self, key: str, period: float) -> int:
        """Count one hit of ``key``, and return the number of hits in the key's current window.

        A window begins with its first hit, and ends ``period`` seconds later. No hit is denied. Costs one round trip.

        Raises:
            ConfigurationError: ``key`` is not a string, or ``period`` is not a number above 0 and up to 400 days.
        """
        if not (type(period) in (int, float) and 0 < period <= LONGEST / SECOND):
            raise ConfigurationError(
                f"incr({key!r}, {period!r}): period should be seconds, more than 0 and at most 34,560,000 (400 days)"
            )
        return self._counted(key, HIT, microseconds(period))[ANSWER]

    def get_count(self, key: str, period: float | None = None) -> int:
        """Return the number of hits in the current window of ``key``. Costs one round trip.

        ``period`` is ignored, because the end of the window is stored with the hits.
        """
        return self._counted(key, PEEK)[ANSWER]

    def get_reset_time(self, key: str) -> int | None:
        """Return the end of the current window of ``key``, in whole seconds since the epoch, rounded up.

        Return None if there is no current window. Costs one round trip.
        """
        verdict = self._counted(key, PEEK)
        return -(-verdict[RECORD + 1] // SECOND) if verdict[OTHER_ANSWER] else None

    def reset(self, key: str) -> None:
        """Delete the hits of ``key``. Costs one round trip."""
        self.delete(COUNTER, [_counter(key)])

    def _counted(self, key: str, op: int, period: int = 0) -> Verdict:
        return self.apply([Call(COUNTER, _counter(key), (op, 1, period), ())])[0]

    # The store's breaker

    def get_backend_health_status(self) -> dict[str, Any]:
        """Return the health of the store as this process has seen it. Costs no round trip.

        The keys are ``name``, ``backend_class``, ``healthy``, ``circuit_breaker_enabled``,
        ``circuit_breaker_available`` (always true) and ``circuit_breaker`` (the breaker's status, or None).
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
        """Return the status of the store's breaker in the form of :meth:`CircuitBreaker.get_status`.

        Return None if the store has no breaker. Costs no round trip.
        """
        return None if self._breaker is None else self._breaker.status()

    def reset_circuit_breaker(self) -> None:
        """Close the store's breaker, and set its failure count to zero."""
        if self._breaker is not None:
            self._breaker.reset()

    def is_circuit_breaker_enabled(self) -> bool:
        """Return whether the store has a breaker."""
        return self._breaker is not None

    def _with_breaker(self, operation: Callable[..., R], *arguments: Any) -> R:
        with _Attempt(self, self._enter()):
            return operation(*arguments)

    def _enter(self) -> str:
        return "" if self._breaker is None else self._breaker.enter()

    def _on_error(self, lease_id: str | None, error: BaseException) -> None:
        """Count ``error`` as a failure if the store caused it.

        Raises:
            BackendError: the store caused ``error``, and ``error`` is not a BackendError yet.
        """
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
    """A context that reports to a backend's breaker whether the call in the ``with`` block succeeded.

    Args:
        lease_id: the lease id that the breaker returned for the call, or None if the breaker was not asked.
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
    if not isinstance(key, str):  # otherwise the driver's error would count as a failure of the store
        raise ConfigurationError(f"key={key!r} should be a string, as in 'user:7'")
    return key, ""
