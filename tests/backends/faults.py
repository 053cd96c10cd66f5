"""Stores that fail when they are told to, and everything that can be asked of one."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from ratelimit_core.backends import Backend, Call, MemoryBackend, MultiBackend, RedisBackend
from ratelimit_core.policies import COUNTER, FIXED_WINDOW, Policy, Verdict
from ratelimit_core.protocol.call import Key

KEY = ("name", "")


class Faults(Backend):
    """Raises :attr:`fault` wherever the store is asked, and counts how often it is."""

    fault: BaseException | None = None
    asked = 0

    def _fail(self) -> None:
        self.asked += 1
        if self.fault is not None:
            raise self.fault

    def _apply(self, calls: Sequence[Call]) -> list[Verdict]:
        self._fail()
        return super()._apply(calls)  # type: ignore[safe-super] # of the store that this is mixed into

    async def _aapply(self, calls: Sequence[Call]) -> list[Verdict]:
        self._fail()
        return await super()._aapply(calls)

    def _apply_each(self, batches: Sequence[Sequence[Call]], most: int | None) -> list[list[Verdict]]:
        self._fail()
        return super()._apply_each(batches, most)

    async def _aapply_each(self, batches: Sequence[Sequence[Call]], most: int | None) -> list[list[Verdict]]:
        self._fail()
        return await super()._aapply_each(batches, most)

    def _delete(self, policy: Policy, keys: Sequence[Key]) -> None:
        self._fail()
        super()._delete(policy, keys)  # type: ignore[safe-super] # likewise

    def _keys(self, policy: Policy, most: int | None) -> list[Key]:
        self._fail()
        return super()._keys(policy, most)  # type: ignore[safe-super] # likewise

    def _clear(self) -> None:
        self._fail()
        super()._clear()  # type: ignore[safe-super] # likewise

    def _append(self, key: Key, entry: str, keep: int, seconds: int) -> None:
        self._fail()
        super()._append(key, entry, keep, seconds)  # type: ignore[safe-super] # likewise

    async def _aappend(self, key: Key, entry: str, keep: int, seconds: int) -> None:
        if isinstance(self, MemoryBackend | MultiBackend):  # others append in a thread, by _append
            self._fail()
        await super()._aappend(key, entry, keep, seconds)

    def _entries(self, key: Key) -> list[str]:
        self._fail()
        return super()._entries(key)  # type: ignore[safe-super] # likewise


class FaultyMemory(Faults, MemoryBackend):
    pass


class FaultyRedis(Faults, RedisBackend):
    pass


class FaultyMulti(Faults, MultiBackend):
    pass


def call(key: Key = KEY, lease_id: str = "lease_id") -> Call:
    """Takes one of three a minute."""
    return Call(FIXED_WINDOW, key, (0, 1), (3, 60_000_000), lease_id)


Operation = Callable[[Backend], Any]

REFUSED_WHILE_OPEN: dict[str, Operation] = {
    "apply": lambda backend: backend.apply([call()]),
    "aapply": lambda backend: asyncio.run(backend.aapply([call()])),
    "apply_each": lambda backend: backend.apply_each([[call()], [call()]]),
    "aapply_each": lambda backend: asyncio.run(backend.aapply_each([[call()], [call()]])),
    "delete": lambda backend: backend.delete(FIXED_WINDOW, [KEY]),
    "keys": lambda backend: backend.keys(COUNTER),
    "clear": lambda backend: backend.clear(),
    "append": lambda backend: backend.append(KEY, "entry", keep=3, seconds=60),
    "aappend": lambda backend: asyncio.run(backend.aappend(KEY, "entry", keep=3, seconds=60)),
    "entries": lambda backend: backend.entries(KEY),
    "incr": lambda backend: backend.incr("key", 60),
    "get_count": lambda backend: backend.get_count("key"),
    "get_reset_time": lambda backend: backend.get_reset_time("key"),
    "reset": lambda backend: backend.reset("key"),
}
ASKED_ALL_THE_SAME: dict[str, Operation] = {
    "apply_unguarded": lambda backend: backend.apply_unguarded([call()]),
    "aapply_unguarded": lambda backend: asyncio.run(backend.aapply_unguarded([call()])),
    "apply_each_unguarded": lambda backend: backend.apply_each_unguarded([[call()], [call()]]),
    "aapply_each_unguarded": lambda backend: asyncio.run(backend.aapply_each_unguarded([[call()], [call()]])),
}
OPERATIONS = REFUSED_WHILE_OPEN | ASKED_ALL_THE_SAME
ASK_NO_STORE = {
    "close",
    "get_backend_health_status",
    "get_circuit_breaker_status",
    "hit",
    "is_circuit_breaker_enabled",
    "reset_circuit_breaker",
}


def public_methods(kind: type) -> set[str]:
    return {name for name, _ in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")}
