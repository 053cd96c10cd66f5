"""What a store has to be able to do, and what every store can do by it."""

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

    A store of its own kind is a subclass with the six methods of one underscore. They raise
    :class:`BackendError` where the store did not answer. What is called from outside are the methods without:
    each is covered by a circuit breaker in the memory of this process, and so raises, beside what it says
    itself:

    * :class:`BackendError` where the store did not answer;
    * :class:`CircuitBreakerError` at once, and without asking the store, while that breaker is open.

    Args:
        name: what the store is called, in errors and where there are several.
        enable_circuit_breaker: whether its breaker is to refuse anything.
        circuit_breaker_config: settings of its breaker, as in :class:`CircuitBreakerConfig`; those of the
            setting ``circuit_breaker`` by default. It counts failures in a row, and no rates.
    """

    shared = True
    """Whether other processes see what is stored here. Verdicts of a store that is not shared aren't reused."""

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

    # What a store is

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
        """A store whose driver has an asynchronous client uses that."""
        return await asyncio.to_thread(self._apply, calls)

    # What is asked of it

    def apply(self, calls: Sequence[Call]) -> list[Verdict]:
        """Decide ``calls`` atomically, in one round trip; if one is denied, nothing is written for any.

        Raises:
            ValueError: two of the calls name the same record.
        """
        return self._covered(self._apply, calls)

    async def aapply(self, calls: Sequence[Call]) -> list[Verdict]:
        """:meth:`apply` without blocking the event loop."""
        breaker = self._breaker
        ticket = breaker.enter() if breaker is not None else ""
        try:
            verdicts = await self._aapply(calls)
        except BaseException as error:
            self._failed(ticket, error)
            raise
        if breaker is not None:
            breaker.succeeded(ticket)
        return verdicts

    def hit(self, call: Call) -> Callable[[str, str], Verdict] | None:
        """What decides hits like ``call`` of any name, with any ticket, quicker than :meth:`apply`; None if nothing.

        ``call`` is a hit that costs 1, of a policy that limits.
        """
        return None

    def delete(self, policy: Policy, keys: Sequence[Key]) -> None:
        """Forget these records and their leases, in one round trip."""
        self._covered(self._delete, policy, keys)

    def keys(self, policy: Policy, most: int | None = None) -> list[Key]:
        """The records of ``policy`` that are in use, without scanning the store; ``most`` at most.

        Which ones is for the store to say; Redis gives those that end last, which of a bucket are the fullest.
        """
        return self._covered(self._keys, policy, most)

    def clear(self) -> None:
        """Forget everything that this library stored under this backend's prefix."""
        self._covered(self._clear)

    def append(self, key: Key, entry: str, *, keep: int, seconds: int) -> None:
        """Add ``entry`` to the journal ``key``, which keeps the newest ``keep``, for ``seconds``. One round trip."""
        self._covered(self._append, key, entry, keep, seconds)

    def entries(self, key: Key) -> list[str]:
        """The journal ``key``, newest first. One round trip."""
        return self._covered(self._entries, key)

    def close(self) -> None:  # noqa: B027 - most stores have nothing to close
        """Let go of connections. The backend may be used again afterwards."""

    # Plain counters

    def incr(self, key: str, period: float) -> int:
        """Count one hit of ``key`` and return how many there were since its window began, ``period`` s ago at most.

        The window begins with its first hit. Nothing is ever refused for being too many. One round trip.

        Raises:
            ConfigurationError: a key that is no text, or a period of no or of over 400 days.
        """
        if not (type(period) in (int, float) and 0 < period <= LONGEST / SECOND):
            raise ConfigurationError(
                f"incr({key!r}, {period!r}): the period should be seconds, more than 0 and at most 400 days"
            )
        return self._counted(key, HIT, microseconds(period))[ANSWER]

    def get_count(self, key: str, period: float | None = None) -> int:
        """How many hits of ``key`` were counted in the window that is under way. One round trip.

        ``period`` is not needed: a window knows how long it lasts.
        """
        return self._counted(key, PEEK)[ANSWER]

    def get_reset_time(self, key: str) -> int | None:
        """When the window of ``key`` ends, in whole seconds since the epoch; None if none is under way."""
        verdict = self._counted(key, PEEK)
        return -(-verdict[RECORD + 1] // SECOND) if verdict[OTHER_ANSWER] else None

    def reset(self, key: str) -> None:
        """Forget the hits of ``key``. One round trip."""
        self.delete(COUNTER, [_counter(key)])

    def _counted(self, key: str, op: int, period: int = 0) -> Verdict:
        return self.apply([Call(COUNTER, _counter(key), (op, 1, period), ())])[0]

    # Its breaker

    def get_backend_health_status(self) -> dict[str, Any]:
        """How it is, from what this process has seen: no round trip.

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
        """As :meth:`CircuitBreaker.get_status`; None if it has no breaker. No round trip."""
        return None if self._breaker is None else self._breaker.status()

    def reset_circuit_breaker(self) -> None:
        """Close its breaker and forget what failed."""
        if self._breaker is not None:
            self._breaker.reset()

    def is_circuit_breaker_enabled(self) -> bool:
        """Whether it has a breaker."""
        return self._breaker is not None

    def attempt(self, calls: Sequence[Call]) -> list[Verdict]:
        """:meth:`apply`, also while the breaker is open: for who has a stricter one of its own.

        The outcome counts all the same; one answer closes the breaker.
        """
        try:
            verdicts = self._apply(calls)
        except BaseException as error:
            self._failed("", error)
            raise
        self._well()
        return verdicts

    async def aattempt(self, calls: Sequence[Call]) -> list[Verdict]:
        """:meth:`attempt` without blocking the event loop."""
        try:
            verdicts = await self._aapply(calls)
        except BaseException as error:
            self._failed("", error)
            raise
        self._well()
        return verdicts

    def _covered(self, operation: Callable[..., R], *arguments: Any) -> R:
        breaker = self._breaker
        ticket = breaker.enter() if breaker is not None else ""
        try:
            result = operation(*arguments)
        except BaseException as error:
            self._failed(ticket, error)
            raise
        if breaker is not None:
            breaker.succeeded(ticket)
        return result

    def _failed(self, ticket: str, error: BaseException) -> None:
        """Count ``error`` if it is the store's, and raise it as what it is to the caller, if that is another."""
        breaker = self._breaker
        of_caller = isinstance(error, ValueError) or (isinstance(error, BackendError) and not error.away)
        ended = not isinstance(error, Exception) or isinstance(error, tuple(interruptions))
        if ended or of_caller:  # asked for nonsense, or in no state to ask
            if breaker is not None:
                breaker.interrupted(ticket)
            return
        if breaker is not None:
            breaker.failed(ticket)
        if not isinstance(error, BackendError):
            raise BackendError(f"{self.name}: {type(error).__name__}: {error}") from error

    def _well(self) -> None:
        breaker = self._breaker
        if breaker is not None:
            breaker.stats["successes"] += 1
            if not breaker.calm:
                breaker.reset()


def _counter(key: object) -> Key:
    if not isinstance(key, str):  # a driver would stumble over it, and that would count as the store's failure
        raise ConfigurationError(f"key={key!r} should be a string")
    return key, ""
