"""Blocks of a shared budget: taken ahead in one question, and spent in this process without any."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from .._util.clock import Clock, microseconds
from .._util.fork import renewed_after_fork
from .decision import Decision

_MOST = 10_000
"""So many keys have a block; of what is beyond that the oldest is forgotten, and ends by itself."""


class Block(NamedTuple):
    """What is left of a block: threads take from the deque without a lock. It ends with its window."""

    left: deque[None]
    until: int
    decision: Decision


class Blocks:
    """The blocks of one limiter, one for each key.

    ``period`` is that of its shortest limit, in µs; where windows are ``fixed``, a block ends with its own.
    """

    def __init__(self, size: int, period: int, fixed: bool, clock: Clock) -> None:
        self.size = size
        self._period = period
        self._fixed = fixed
        self._clock = clock
        self._begin()
        _instances.add(self)

    def _begin(self) -> None:
        self._held: OrderedDict[str, Block] = OrderedDict()
        self._asking: dict[str, object] = {}

    def spend(self, name: str) -> Decision | None:
        """One of the block of ``name``; None if nothing is left of it."""
        block = self._held.get(name)
        if block is None or self._clock() >= block.until:
            return None
        try:
            block.left.pop()
        except IndexError:
            return None
        return block.decision

    @contextmanager
    def asking(self, name: str) -> Iterator[bool]:
        """Whether nobody else asks for a block of ``name``: of two that are taken at once, one would be lost."""
        me = object()
        try:
            yield self._asking.setdefault(name, me) is me
        finally:
            if self._asking.get(name) is me:
                del self._asking[name]

    def took(self, name: str, decision: Decision, asked_at: int) -> Decision:
        """Hold the block that ``decision`` allowed, and spend the first of it."""
        decision = decision._replace(cost=1)
        lasts = min(self._period, microseconds(decision.reset_after)) if self._fixed else self._period
        self._held[name] = Block(deque([None] * (self.size - 1)), asked_at + lasts, decision)
        if len(self._held) > _MOST:
            self._held.popitem(last=False)
        return decision

    def put_back(self, name: str, decision: Decision) -> bool:
        """One that was not needed; False if its block is not held any more."""
        block = self._held.get(name)
        if block is None or block.decision.ticket != decision.ticket:
            return False
        block.left.append(None)
        return True

    def give_up(self) -> list[tuple[str, Decision]]:
        """All that is left and has not ended, as what is to be refunded. Nothing is held any more."""
        held, self._held = self._held, OrderedDict()
        now = self._clock()
        left = [(name, block, _taken_out(block.left)) for name, block in held.items() if block.until > now]
        return [(name, block.decision._replace(cost=number)) for name, block, number in left if number]

    def forget(self) -> None:
        """Hold nothing, and give nothing back."""
        self._held = OrderedDict()


def _taken_out(left: deque[None]) -> int:
    """How many there were, and none is for a thread that is about to spend one."""
    number = 0
    with suppress(IndexError):
        while True:
            left.pop()
            number += 1
    return number


_instances = renewed_after_fork(Blocks._begin)  # what there is, is the parent's to spend
