"""The backend in the memory of this process, for tests, single processes, and outages of the shared store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .._util.clock import Clock, wall
from ..config.sources import checked, setting
from ..policies import Policy, Verdict
from ..protocol.call import Call, Key
from .base import Backend
from .batches import Batches
from .records import Records


class MemoryBackend(Backend):
    """A backend that keeps records in the memory of this process. Other processes do not see them.

    A call takes a few µs and costs no round trip. One lock protects all records.

    Args:
        max_keys: the maximum number of keys of each policy. The least recently written key is evicted first.
            The default is the setting ``memory_max_keys``.
        clock: a function that returns the time in µs; for tests.
        options: the other arguments of :class:`Backend`.
    """

    shared = False

    def __init__(self, *, max_keys: int | None = None, clock: Clock = wall, **options: Any) -> None:
        super().__init__(clock=clock, **options)
        most = setting("memory_max_keys") if max_keys is None else checked("memory_max_keys", max_keys)
        self._records = Records(most, clock)

    def _apply(self, calls: Sequence[Call]) -> list[Verdict]:
        return self._records.apply(calls)

    def _apply_each(self, batches: Batches, most: int | None) -> list[list[Verdict]]:
        return self._records.apply_each(batches, most)

    def hit(self, call: Call) -> Callable[[str, str], Verdict] | None:
        """Return the function that :meth:`Backend.hit` describes. It does not ask the breaker, as memory does not fail.

        Return None in a subclass that overrides ``_apply`` or ``_aapply``.
        """
        kind = type(self)
        own = (kind._apply, kind._aapply) == (MemoryBackend._apply, MemoryBackend._aapply)
        return self._records.hit(call) if own else None

    async def _aapply(self, calls: Sequence[Call]) -> list[Verdict]:
        return self._records.apply(calls)

    async def _aapply_each(self, batches: Batches, most: int | None) -> list[list[Verdict]]:
        return self._records.apply_each(batches, most)

    async def _aappend(self, key: Key, entry: str, keep: int, seconds: int) -> None:
        self._records.append(key, entry, keep, seconds)

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
