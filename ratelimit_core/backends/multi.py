"""Combine several stores into one. If the first store does not answer, the next store is asked."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from .._util.clock import SECOND, Clock, microseconds, monotonic
from .._util.fork import renewed_after_fork
from .._util.redact import without_secrets
from .._util.steps import Steps, acall, arun, call, run
from ..config.sources import checked, setting
from ..errors import BackendError, CircuitBreakerError, ConfigurationError
from ..policies import ALLOWED, BREAKER, FIXED_WINDOW, Policy, Verdict
from ..policies.circuit_breaker import FORCE
from ..policies.fixed_window import HIT
from ..protocol.call import Call, Key
from ..protocol.names import known_by
from .base import Backend
from .batches import Batches, apply_by_place


class MultiBackend(Backend):
    """A backend that combines several stores. Each call asks the stores in order, until one store answers.

    If a store fails, the call asks the next store at once, and later calls skip the failed store. One call in
    ``store_retry_interval`` seconds (a setting) tries the failed store again, while all other calls skip it.
    Each store also has its own breaker (its ``circuit_breaker_config``). The breaker opens after
    ``failure_threshold`` failed attempts in a row, and rejects all calls for ``recovery_timeout`` seconds.

    The stores do not exchange counts. After a failover, counts begin at zero. Once the first store is available again,
    the counts of the other store are not used. A call costs what the store that answers documents, and one timeout for
    each store that fails during this call.

    An override of a breaker, or a deletion, must reach the store that the name of the record prefers. If this store is
    unavailable, :class:`BackendError` is raised. In another store, the change would be lost as soon as the preferred
    store is available again.

    Args:
        backends: the stores, in the order of preference.
        strategy: which store a name prefers. The default is the setting ``multi_backend_strategy``.

            * ``"first_healthy"``: all names prefer the first store.
            * ``"round_robin"``: each name prefers one of the stores, the same store in every process. So the stores
              share the load, and every limit still has one count.

            Calls of one name are decided atomically. Calls of several names may prefer different stores. Each store is
            first asked without writing. If all stores would allow the calls, each store is asked again and writes.
            This costs two round trips for each store. If a store denies the second time, earlier stores keep what they
            wrote.

            :meth:`apply_each` asks each store once, about all batches that prefer the store, when the first of them is
            due. A batch whose names prefer several stores is decided alone, as by :meth:`apply`. So the order is kept
            within a store, and not across stores. ``most`` holds for all stores together.
        clock: a function that returns the time in µs; for tests.
        options: the other arguments of :class:`Backend`.

    Raises:
        ConfigurationError: ``backends`` is empty or contains an object that is not a :class:`Backend`, or the
            strategy is unknown.
    """

    def __init__(
        self, backends: Sequence[Backend], *, strategy: str | None = None, clock: Clock | None = None, **options: Any
    ) -> None:
        super().__init__(clock=clock, **options)
        name = "multi_backend_strategy"
        self.strategy = setting(name) if strategy is None else checked(name, strategy)
        self.backends = tuple(backends)
        if not self.backends:
            raise ConfigurationError(
                f"backends={backends!r} should have a store, as in MultiBackend([RedisBackend(...), MemoryBackend()])"
            )
        for backend in self.backends:
            if not isinstance(backend, Backend):
                raise ConfigurationError(
                    f"backends: {without_secrets(backend)} in a MultiBackend should be a Backend, as in MemoryBackend()"
                )
        self._members = [_Member(backend, clock or monotonic) for backend in self.backends]

    @property
    def shared(self) -> bool:  # type: ignore[override] # a constant in other backends
        """Whether other processes see what the preferred stores contain."""
        first = self.backends if self.strategy == "round_robin" else self.backends[:1]
        return all(backend.shared for backend in first)

    def _apply(self, calls: Sequence[Call]) -> list[Verdict]:
        return run(self._decide(calls), call)

    def _apply_each(self, batches: Batches, most: int | None) -> list[list[Verdict]]:
        return run(self._decide_each(batches, most), call)

    async def _aapply_each(self, batches: Batches, most: int | None) -> list[list[Verdict]]:
        return await arun(self._decide_each(batches, most), acall)

    async def _aapply(self, calls: Sequence[Call]) -> list[Verdict]:
        return await arun(self._decide(calls), acall)

    def _delete(self, policy: Policy, keys: Sequence[Key]) -> None:
        primaries = {self._primary_index(name) for name, _ in keys}
        for index in primaries:
            run(self._on_primary(index, "delete", policy, keys), call)
        for index, member in enumerate(self._members):
            if index not in primaries:
                with suppress(BackendError, CircuitBreakerError), member.calling(self._members) as backend:
                    backend.delete(policy, keys)

    def _keys(self, policy: Policy, most: int | None) -> list[Key]:
        found = run(self._on_all("keys", policy, most), call)
        return list(dict.fromkeys(key for keys in found for key in keys))[:most]

    def _clear(self) -> None:
        run(self._on_all("clear"), call)

    def _append(self, key: Key, entry: str, keep: int, seconds: int) -> None:
        run(self._on_first(key[0], "append", key, entry, keep, seconds), call)

    async def _aappend(self, key: Key, entry: str, keep: int, seconds: int) -> None:
        await arun(self._on_first(key[0], "append", key, entry, keep, seconds), acall)

    def _entries(self, key: Key) -> list[str]:
        found: list[str] = run(self._on_first(key[0], "entries", key), call)
        return found

    def close(self) -> None:
        """Close the connections of all stores."""
        for backend in self.backends:
            backend.close()

    def get_backend_health_status(self) -> dict[str, Any]:
        """Return the same keys as every :class:`Backend`, and ``backends``, a list of the status of each store.

        ``healthy`` is true if at least one store is healthy and this backend's own breaker is closed.
        """
        parts = [member.health() for member in self._members]
        whole = super().get_backend_health_status()
        return whole | {"healthy": whole["healthy"] and any(part["healthy"] for part in parts), "backends": parts}

    def reset_circuit_breaker(self) -> None:
        """Close the breaker of this backend and the breakers of all stores. Later calls ask every store again."""
        super().reset_circuit_breaker()
        for member in self._members:
            member.backend.reset_circuit_breaker()
            member.unavailable_until = 0

    # Steps for callers that block and for callers that await: see `_util.steps`

    def _decide(self, calls: Sequence[Call]) -> Steps[list[Verdict]]:
        """Ask each store to decide the calls that prefer it.

        If there are several such stores, first ask all of them without writing.
        """
        parts: dict[int, list[int]] = {}
        for i, each in enumerate(calls):
            parts.setdefault(self._primary_index(each.key[0]), []).append(i)
        if len(parts) < 2:
            return (yield from self._ask(calls))
        verdicts: dict[int, Verdict] = {}
        for dry_run in (True, False):
            for part in parts.values():
                asked = [calls[i] for i in part]
                answers = yield from self._ask([*asked, _dry_run_call(asked)] if dry_run else asked)
                verdicts.update(zip(part, answers, strict=False))
            if not all(verdict[ALLOWED] for verdict in verdicts.values()):
                break
        return [verdicts[i] for i in range(len(calls))]

    def _decide_each(self, batches: Batches, most: int | None) -> Steps[list[list[Verdict]]]:
        return apply_by_place(batches, most, self._primary_index, self._ask_each, self._decide)

    def _ask_each(self, batches: Batches, most: int | None) -> Steps[list[list[Verdict]]]:
        """Ask the store that all batches prefer."""
        name = _name(batches[0])
        if any(map(_is_override, batches)):
            return self._on_primary(self._primary_index(name), "apply_each_unguarded", batches, most)
        return self._on_first(name, "apply_each", batches, most)

    def _ask(self, calls: Sequence[Call]) -> Steps[list[Verdict]]:
        name = _name(calls)
        if _is_override(calls):
            return self._on_primary(self._primary_index(name), "apply_unguarded", calls)
        return self._on_first(name, "apply", calls)

    def _on_first(self, name: str, method: str, *arguments: Any) -> Steps[Any]:
        """Call the store that ``name`` prefers. If it does not answer, call the next stores in turn."""
        errors: list[Exception] = []
        first = self._primary_index(name)
        for member in self._members[first:] + self._members[:first]:
            try:
                with member.calling(self._members) as backend:
                    return (yield backend, method, *arguments)
            except (BackendError, CircuitBreakerError) as error:
                errors.append(error)
        raise _all_failed(errors)

    def _on_primary(self, index: int, method: str, *arguments: Any) -> Steps[Any]:
        """Call the store at ``index``, even if it has just failed. If it fails, call no other store."""
        member = self._members[index]
        try:
            result = yield member.backend, method, *arguments
        except (BackendError, CircuitBreakerError) as error:
            failure = BackendError(f"{member.backend.name} did not confirm the change; try again later: {error}")
            failure.is_outage = member.is_last(self._members)  # otherwise another store answers other calls
            raise failure from error
        member.unavailable_until = 0
        return result

    def _on_all(self, method: str, *arguments: Any) -> Steps[list[Any]]:
        """Call every store, and return the answers of the stores that are available."""
        answers, errors = [], []
        for member in self._members:
            try:
                with member.calling(self._members) as backend:
                    answers.append((yield backend, method, *arguments))
            except (BackendError, CircuitBreakerError) as error:
                errors.append(error)
        if not answers:
            raise _all_failed(errors)
        return answers

    def _primary_index(self, name: str) -> int:
        """Return the index of the store that ``name`` prefers."""
        if self.strategy != "round_robin":
            return 0
        return zlib.crc32(known_by(name).encode("utf-8", "surrogatepass")) % len(self.backends)


class _Member:
    """A store of a MultiBackend. After a failure, calls skip it for a while if another store is available."""

    def __init__(self, backend: Backend, clock: Clock) -> None:
        self.backend = backend
        self.unavailable_until = 0
        self._retry_after = microseconds(setting("store_retry_interval"))
        self._clock = clock
        self._lock = threading.Lock()
        _members.add(self)

    @contextmanager
    def calling(self, members: Sequence[_Member]) -> Iterator[Backend]:
        """Yield the store. Note whether the call in the ``with`` block succeeds.

        Raises:
            BackendError: the store has failed, and it is not yet time to try it again.
        """
        if self.unavailable_until and not self.is_last(members):
            with self._lock:
                now = self._clock()
                left = self.unavailable_until - now
                if left <= 0:  # this call tries the store again, while other calls skip it
                    self.unavailable_until = now + self._retry_after
            if left > 0:
                raise BackendError(f"{self.backend.name} is unavailable", retry_after=left / SECOND)
        try:
            yield self.backend
        except (BackendError, CircuitBreakerError) as error:
            if getattr(error, "is_outage", True):
                self.unavailable_until = self._clock() + self._retry_after
            raise
        self.unavailable_until = 0

    def is_last(self, members: Sequence[_Member]) -> bool:
        """Return whether all other stores are unavailable."""
        return all(member.unavailable_until for member in members if member is not self)

    def health(self) -> dict[str, Any]:
        """Return the status of the store. While calls skip the store, it is not healthy."""
        status = self.backend.get_backend_health_status()
        return status | {"healthy": status["healthy"] and not self.unavailable_until}

    def _after_fork(self) -> None:
        self._lock = threading.Lock()


_members = renewed_after_fork(_Member._after_fork)


def _is_override(calls: Sequence[Call]) -> bool:
    return any(each.policy is BREAKER and each.event[0] == FORCE for each in calls)


def _name(calls: Sequence[Call]) -> str:
    return calls[0].key[0] if calls else ""


def _dry_run_call(calls: Sequence[Call]) -> Call:
    """Return a call that is always denied. A store that applies it together with ``calls`` writes nothing."""
    return Call(FIXED_WINDOW, (_name(calls), "veto"), (HIT, 1), (0, 1))


def _all_failed(errors: Sequence[Exception]) -> BackendError:
    failure = BackendError(f"no store answers: {'; '.join(map(str, errors))}")
    failure.is_outage = any(getattr(error, "is_outage", True) for error in errors)
    return failure
