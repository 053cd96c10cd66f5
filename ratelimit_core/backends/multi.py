"""Several stores as one: what the first can't answer, the next one does."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, TypeVar, cast

from ..errors import BackendError, CircuitBreakerError, ConfigurationError
from ..policies import ALLOWED, FIXED_WINDOW, Policy, Verdict
from ..policies.fixed_window import HIT
from ..settings import checked, setting
from .base import Backend
from .calls import Call, Key

R = TypeVar("R")


class MultiBackend(Backend):
    """Asks the first of several stores that answers.

    Each store's own breaker decides whether it is asked at all: after ``failure_threshold`` failures it is passed
    over, and probed after ``recovery_timeout``; a call that finds a store failing goes on to the next at once. The
    stores know nothing of each other: after a failover counts begin anew, and after the return what was counted
    meanwhile is left behind. A call costs one round trip, and one timeout for each store that fails before it.

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

    def __init__(self, backends: Sequence[Backend], *, strategy: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        name = "multi_backend_strategy"
        self.strategy = setting(name) if strategy is None else checked(name, strategy)
        self.backends = tuple(backends)
        if not self.backends:
            raise ConfigurationError("a MultiBackend needs stores: MultiBackend([RedisBackend(...), MemoryBackend()])")
        for backend in self.backends:
            if not isinstance(backend, Backend):
                raise ConfigurationError(f"{backend!r} in a MultiBackend should be a Backend, as in MemoryBackend()")

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
                part = deciding.send(self._first(_name(part), functools.partial(_ask, part)))
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
        refusals: list[Exception] = []
        for backend in self._order(_name(calls)):
            try:
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
        self._each(lambda backend: backend.delete(policy, keys))

    def _keys(self, policy: Policy) -> list[Key]:
        return list(dict.fromkeys(key for keys in self._each(lambda backend: backend.keys(policy)) for key in keys))

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
        parts = [backend.get_backend_health_status() for backend in self.backends]
        whole = super().get_backend_health_status()
        return whole | {"healthy": whole["healthy"] and any(part["healthy"] for part in parts), "backends": parts}

    def reset_circuit_breaker(self) -> None:
        """Close its breaker, and those of the stores."""
        super().reset_circuit_breaker()
        for backend in self.backends:
            backend.reset_circuit_breaker()

    def _order(self, name: str) -> Iterator[Backend]:
        first = self._place(name)
        return iter(self.backends[first:] + self.backends[:first])

    def _place(self, name: str) -> int:
        """The place of the store that is asked first."""
        if self.strategy != "round_robin":
            return 0
        return zlib.crc32(name.encode("utf-8", "surrogatepass")) % len(self.backends)

    def _first(self, name: str, ask: Callable[[Backend], R]) -> R:
        refusals: list[Exception] = []
        for backend in self._order(name):
            try:
                return ask(backend)
            except (BackendError, CircuitBreakerError) as error:
                refusals.append(error)
        raise _nobody(refusals)

    def _each(self, ask: Callable[[Backend], R]) -> list[R]:
        """The answers of all that answer; that one is away must not keep the others from it."""
        answers, refusals = [], []
        for backend in self.backends:
            try:
                answers.append(ask(backend))
            except (BackendError, CircuitBreakerError) as error:
                refusals.append(error)
        if not answers:
            raise _nobody(refusals)
        return answers


def _name(calls: Sequence[Call]) -> str:
    return calls[0].key[0] if calls else ""


def _ask(calls: Sequence[Call], backend: Backend) -> list[Verdict]:
    return backend.apply(calls)


def _veto(calls: Sequence[Call]) -> Call:
    """A limit of none: it denies, and so nothing is written of what is asked with it."""
    return Call(FIXED_WINDOW, (_name(calls), "veto"), (HIT, 1), (0, 1))


def _nobody(refusals: Sequence[Exception]) -> BackendError:
    error = BackendError(f"no store answers: {'; '.join(map(str, refusals))}")
    error.away = any(getattr(refusal, "away", True) for refusal in refusals)
    return error
