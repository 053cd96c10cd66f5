"""Several stores as one: what the first can't answer, the next one does."""

from __future__ import annotations

import asyncio
import functools
import threading
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar, cast

from .._util.clock import SECOND, Clock, microseconds, monotonic
from .._util.fork import renewed_after_fork
from .._util.redact import without_secrets
from ..config.sources import checked, setting
from ..errors import BackendError, CircuitBreakerError, ConfigurationError
from ..policies import ALLOWED, BREAKER, FIXED_WINDOW, Policy, Verdict
from ..policies.breaker import FORCE
from ..policies.fixed_window import HIT
from ..protocol.call import Call, Key
from ..protocol.names import known_by
from .base import Backend

R = TypeVar("R")


class MultiBackend(Backend):
    """Asks the first of several stores that answers.

    A call that finds a store failing goes on to the next at once, and from then on that store is passed over: one call
    in ``store_retry_interval`` seconds (the setting) tries it anew, while the others go on. If ``failure_threshold``
    attempts in a row fail, its own breaker lets none through for ``recovery_timeout``. The stores know nothing of each
    other: after a failover counts begin anew, and after the return what was counted meanwhile is left behind. A call
    costs one round trip, and one timeout for each store that it finds failing.

    What a person wants done, a mode of a breaker or a deletion, has to reach the store that is asked first, or else is
    a :class:`BackendError`: elsewhere it would be lost when that one is back.

    Args:
        backends: the stores, in the order of preference.
        strategy: ``"first_healthy"`` asks in that order. ``"round_robin"`` spreads the names over the stores, each
            name having an order of its own, the same in every process: so the load is shared and yet every limit
            has one count. Calls of one name are decided atomically. Where several names lie in different stores
            each of these is asked whether it would allow, and only if all would, to do so: two round trips for each.
            If one has changed its mind meanwhile, what those before it took is not given back. The setting
            ``multi_backend_strategy`` by default.
        options: those of :class:`Backend`.

    Raises:
        ConfigurationError: no stores, a wrong strategy, or something that is no store.
    """

    def __init__(
        self, backends: Sequence[Backend], *, strategy: str | None = None, clock: Clock | None = None, **options: Any
    ) -> None:
        super().__init__(clock=clock, **options)
        name = "multi_backend_strategy"
        self.strategy = setting(name) if strategy is None else checked(name, strategy)
        self.backends = tuple(backends)
        if not self.backends:
            raise ConfigurationError("a MultiBackend needs stores: MultiBackend([RedisBackend(...), MemoryBackend()])")
        for backend in self.backends:
            if not isinstance(backend, Backend):
                raise ConfigurationError(
                    f"{without_secrets(backend)} in a MultiBackend should be a Backend, as in MemoryBackend()"
                )
        self._members = [_Member(backend, clock or monotonic) for backend in self.backends]

    @property
    def shared(self) -> bool:  # type: ignore[override] # of the others it is a constant
        """Whether those are that are asked first."""
        first = self.backends if self.strategy == "round_robin" else self.backends[:1]
        return all(backend.shared for backend in first)

    def _apply(self, calls: Sequence[Call]) -> list[Verdict]:
        deciding = self._deciding(calls)
        part = next(deciding)
        while True:
            try:
                if _is_an_order(part):
                    verdicts = self._told(self._place(_name(part)), functools.partial(_attempt, part))
                else:
                    verdicts = self._first(_name(part), functools.partial(_ask, part))
                part = deciding.send(verdicts)
            except StopIteration as end:
                return cast(list[Verdict], end.value)

    async def _aapply(self, calls: Sequence[Call]) -> list[Verdict]:
        deciding = self._deciding(calls)
        part = next(deciding)
        while True:
            try:
                part = deciding.send(await self._afirst(part))
            except StopIteration as end:
                return cast(list[Verdict], end.value)

    async def _afirst(self, calls: Sequence[Call]) -> list[Verdict]:
        if _is_an_order(calls):
            return await asyncio.to_thread(self._told, self._place(_name(calls)), functools.partial(_attempt, calls))
        refusals: list[Exception] = []
        for member in self._order(_name(calls)):
            try:
                with member.asked(self._members) as backend:
                    return await backend.aapply(calls)
            except (BackendError, CircuitBreakerError) as error:
                refusals.append(error)
        raise _nobody(refusals)

    def _deciding(self, calls: Sequence[Call]) -> Generator[Sequence[Call], list[Verdict], list[Verdict]]:
        """What is to be asked, store by store; the answer to each is sent in."""
        parts: dict[int, list[int]] = {}
        for i, call in enumerate(calls):
            parts.setdefault(self._place(call.key[0]), []).append(i)
        if len(parts) < 2:
            return (yield calls)
        verdicts: dict[int, Verdict] = {}
        for rehearsal in (True, False):
            for part in parts.values():
                asked = [calls[i] for i in part]
                answers = yield [*asked, _veto(asked)] if rehearsal else asked
                verdicts.update(zip(part, answers, strict=False))
            if not all(verdict[ALLOWED] for verdict in verdicts.values()):
                break
        return [verdicts[i] for i in range(len(calls))]

    def _delete(self, policy: Policy, keys: Sequence[Key]) -> None:
        firsts = {self._place(name) for name, _ in keys}
        for place in firsts:
            self._told(place, lambda backend: backend.delete(policy, keys))
        for place, member in enumerate(self._members):
            if place not in firsts:
                with suppress(BackendError, CircuitBreakerError), member.asked(self._members) as backend:
                    backend.delete(policy, keys)

    def _keys(self, policy: Policy, most: int | None) -> list[Key]:
        each = self._each(lambda backend: backend.keys(policy, most))
        return list(dict.fromkeys(key for keys in each for key in keys))[:most]

    def _clear(self) -> None:
        self._each(lambda backend: backend.clear())

    def _append(self, key: Key, entry: str, keep: int, seconds: int) -> None:
        self._first(key[0], lambda backend: backend.append(key, entry, keep=keep, seconds=seconds))

    def _entries(self, key: Key) -> list[str]:
        return self._first(key[0], lambda backend: backend.entries(key))

    def close(self) -> None:
        """Let go of the connections of all."""
        for backend in self.backends:
            backend.close()

    def get_backend_health_status(self) -> dict[str, Any]:
        """As of any :class:`Backend`; ``backends`` has that of each store, and ``healthy`` is true if one is."""
        parts = [member.health() for member in self._members]
        whole = super().get_backend_health_status()
        return whole | {"healthy": whole["healthy"] and any(part["healthy"] for part in parts), "backends": parts}

    def reset_circuit_breaker(self) -> None:
        """Close its breaker, and those of the stores."""
        super().reset_circuit_breaker()
        for member in self._members:
            member.backend.reset_circuit_breaker()
            member.away_until = 0

    def _order(self, name: str) -> list[_Member]:
        first = self._place(name)
        return self._members[first:] + self._members[:first]

    def _place(self, name: str) -> int:
        """The place of the store that is asked first."""
        if self.strategy != "round_robin":
            return 0
        return zlib.crc32(known_by(name).encode("utf-8", "surrogatepass")) % len(self.backends)

    def _first(self, name: str, ask: Callable[[Backend], R]) -> R:
        refusals: list[Exception] = []
        for member in self._order(name):
            try:
                with member.asked(self._members) as backend:
                    return ask(backend)
            except (BackendError, CircuitBreakerError) as error:
                refusals.append(error)
        raise _nobody(refusals)

    def _told(self, place: int, do: Callable[[Backend], R]) -> R:
        """Have it done by the store at ``place``, tried anew or not, and by no other in its stead."""
        member = self._members[place]
        try:
            result = do(member.backend)
        except (BackendError, CircuitBreakerError) as error:
            refusal = BackendError(f"{member.backend.name} does not answer, so nothing was changed there: {error}")
            refusal.away = member.alone(self._members)  # else others answer all the rest
            raise refusal from error
        member.away_until = 0
        return result

    def _each(self, ask: Callable[[Backend], R]) -> list[R]:
        """The answers of all that answer; that one is away must not keep the others from it."""
        answers, refusals = [], []
        for member in self._members:
            try:
                with member.asked(self._members) as backend:
                    answers.append(ask(backend))
            except (BackendError, CircuitBreakerError) as error:
                refusals.append(error)
        if not answers:
            raise _nobody(refusals)
        return answers


class _Member:
    """One of the stores, behind a breaker of threshold 1, as long as there is another to be asked."""

    def __init__(self, backend: Backend, clock: Clock) -> None:
        self.backend = backend
        self.away_until = 0
        self._retry_after = microseconds(setting("store_retry_interval"))
        self._clock = clock
        self._lock = threading.Lock()
        _members.add(self)

    @contextmanager
    def asked(self, members: Sequence[_Member]) -> Iterator[Backend]:
        """The store, to be asked inside of the ``with``.

        Raises:
            BackendError: it has failed, and it is not yet time to try it anew.
        """
        if self.away_until and not self.alone(members):
            with self._lock:
                now = self._clock()
                left = self.away_until - now
                if left <= 0:  # this call tries; to the others it is away as before
                    self.away_until = now + self._retry_after
            if left > 0:
                raise BackendError(f"{self.backend.name} is away", retry_after=left / SECOND)
        try:
            yield self.backend
        except (BackendError, CircuitBreakerError) as error:
            if getattr(error, "away", True):
                self.away_until = self._clock() + self._retry_after
            raise
        self.away_until = 0

    def alone(self, members: Sequence[_Member]) -> bool:
        """Whether all the others are away."""
        return all(member.away_until for member in members if member is not self)

    def health(self) -> dict[str, Any]:
        """That of the store; not healthy while it is passed over."""
        status = self.backend.get_backend_health_status()
        return status | {"healthy": status["healthy"] and not self.away_until}

    def _after_fork(self) -> None:
        self._lock = threading.Lock()


_members = renewed_after_fork(_Member._after_fork)


def _is_an_order(calls: Sequence[Call]) -> bool:
    return any(call.policy is BREAKER and call.event[0] == FORCE for call in calls)


def _name(calls: Sequence[Call]) -> str:
    return calls[0].key[0] if calls else ""


def _ask(calls: Sequence[Call], backend: Backend) -> list[Verdict]:
    return backend.apply(calls)


def _attempt(calls: Sequence[Call], backend: Backend) -> list[Verdict]:
    return backend.attempt(calls)


def _veto(calls: Sequence[Call]) -> Call:
    """A limit of none: it denies, and so nothing is written of what is asked with it."""
    return Call(FIXED_WINDOW, (_name(calls), "veto"), (HIT, 1), (0, 1))


def _nobody(refusals: Sequence[Exception]) -> BackendError:
    error = BackendError(f"no store answers: {'; '.join(map(str, refusals))}")
    error.away = any(getattr(refusal, "away", True) for refusal in refusals)
    return error
