"""The memory of this process: for tests, for one process, and while the shared store is away."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .._util.clock import Clock, wall
from ..config.sources import checked, setting
from ..policies import Policy, Verdict
from ..protocol.call import Call, Key
from .base import Backend
from .records import Records


class MemoryBackend(Backend):
    """Keeps records in a dictionary, at most ``max_keys`` of each policy: what was not written for longest goes.

    One lock; a call costs a few µs and no round trip. Not shared: each process has its own.

    Args:
        max_keys: the setting ``memory_max_keys`` by default.
        clock: for tests.
        options: those of :class:`Backend`.
    """

    shared = False

    def __init__(self, *, max_keys: int | None = None, clock: Clock = wall, **options: Any) -> None:
        super().__init__(clock=clock, **options)
        most = setting("memory_max_keys") if max_keys is None else checked("memory_max_keys", max_keys)
        self._records = Records(most, clock)

    def _apply(self, calls: Sequence[Call]) -> list[Verdict]:
        return self._records.apply(calls)

    def hit(self, call: Call) -> Callable[[str, str], Verdict] | None:
        """Nothing that can fail, or that a breaker has to know of; of a subclass that decides otherwise, None."""
        kind = type(self)
        own = (kind._apply, kind._aapply) == (MemoryBackend._apply, MemoryBackend._aapply)
        return self._records.hit(call) if own else None

    async def _aapply(self, calls: Sequence[Call]) -> list[Verdict]:
        return self._records.apply(calls)

    def _delete(self, policy: Policy, keys: Sequence[Key]) -> None:
        self._records.delete(policy, keys)

    def _keys(self, policy: Policy, most: int | None) -> list[Key]:
        return self._records.keys(policy, most)

    def _clear(self) -> None:
        self._records.clear()

    def _append(self, key: Key, entry: str, keep: int, seconds: int) -> None:
        self._records.append(key, entry, keep, seconds)

    def _entries(self, key: Key) -> list[str]:
        return self._records.entries(key)
