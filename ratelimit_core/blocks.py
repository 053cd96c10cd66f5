"""Blocks of a shared budget: taken ahead in one question, and spent in this process without any."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from contextlib import suppress
from typing import NamedTuple

from .clock import Clock, microseconds
from .forks import renewed_after_fork
from .limits import Decision

_MOST = 10_000
"""So many keys have a block; of what is beyond that the oldest is forgotten, and ends by itself."""


class Block(NamedTuple):
    """What is left of a block: threads take from the deque without a lock. It ends with its window."""

    left: deque[None]
    until: int
    decision: Decision


class Blocks:
    """The blocks of one limiter, of each key those that are not spent: several, if several threads took one at a time.

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
        self._taking = threading.Lock()
        self._held: OrderedDict[str, tuple[Block, ...]] = OrderedDict()

    def spend(self, name: str) -> Decision | None:
        """One of a block of ``name``; None if nothing is left."""
        for block in self._held.get(name, ()):
            if self._clock() < block.until:
                try:
                    block.left.pop()
                except IndexError:
                    continue
                return block.decision
        return None

    def took(self, name: str, decision: Decision, asked_at: int) -> Decision:
        """Hold the block that ``decision`` allowed, and spend the first of it."""
        decision = decision._replace(cost=1)
        lasts = min(self._period, microseconds(decision.reset_after)) if self._fixed else self._period
        block = Block(deque([None] * (self.size - 1)), asked_at + lasts, decision)
        with self._taking:
            left = (each for each in self._held.get(name, ()) if each.left and each.until > asked_at)
            self._held[name] = (*left, block)
            if len(self._held) > _MOST:
                self._held.popitem(last=False)
        return decision

    def put_back(self, name: str, decision: Decision) -> bool:
        """One that was not needed; False if its block is not held any more."""
        for block in self._held.get(name, ()):
            if block.decision.ticket == decision.ticket:
                block.left.append(None)
                return True
        return False

    def give_up(self) -> list[tuple[str, Decision]]:
        """All that is left and has not ended, as what is to be refunded. Nothing is held any more."""
        with self._taking:
            held, self._held = self._held, OrderedDict()
        now = self._clock()
        ours = [(name, block) for name, blocks in held.items() for block in blocks if block.until > now]
        left = [(name, block, _taken_out(block.left)) for name, block in ours]
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


_instances = renewed_after_fork(Blocks._begin)  # they are the parent's to spend
