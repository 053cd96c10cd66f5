"""The local quota: blocks of a shared limit that one limiter takes in advance and spends without asking."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

from .._util.clock import Clock, microseconds
from .._util.fork import renewed_after_fork
from .._util.ids import new_id
from ..errors import ConfigurationError
from ..policies import CONCURRENCY, FIXED_WINDOW
from ..protocol.names import MAX_KEY
from ..store.drive import Steps
from .batch import LimitSet, hit_check, refund_calls
from .decision import Decision
from .limit import Limit

_MAX_BLOCKS = 10_000
"""The maximum number of blocks. If there are more, the oldest is dropped, and the store still counts all its units."""


class Block(NamedTuple):
    """A block, which ends at ``until`` (µs), with its unused units. Threads take units without a lock."""

    units: deque[None]
    until: int
    decision: Decision


class LocalQuota:
    """The blocks of one limiter, one for each key.

    Args:
        size: the number of units in a block.
        limits: the limiter's limits.
        clock: measures the ages of blocks.

    Raises:
        ConfigurationError: no block of ``size`` units can be taken from ``limits``.
    """

    def __init__(self, size: int, limits: Sequence[Limit], clock: Clock) -> None:
        most = min(limit.allowance for limit in limits)
        if any(limit.policy is CONCURRENCY for limit in limits):
            raise ConfigurationError(
                f"local_quota={size!r}: concurrency slots can't be taken in advance; leave out concurrency"
            )
        if type(size) is not int or not 2 <= size <= most:
            raise ConfigurationError(f"local_quota={size!r} should be a whole number from 2 to the limit, {most}")
        self.size = size
        self._period = min(limit.period_us for limit in limits)
        self._fixed = any(limit.policy is FIXED_WINDOW for limit in limits)
        self._clock = clock
        self._blocks: OrderedDict[str, Block] = OrderedDict()
        self._taking: dict[str, object] = {}
        _instances.add(self)

    def __len__(self) -> int:
        return len(self._blocks)

    def spend(self, key: str) -> Decision | None:
        """Spend one unit of the block of ``key``. Return None if no unit is left."""
        block = self._blocks.get(key)
        if block is None or self._clock() >= block.until:
            return None
        try:
            block.units.pop()
        except IndexError:
            return None
        return block.decision

    def hit(self, limiter: LimitSet, key: str) -> Steps[Decision]:
        """Hit ``key`` at a cost of 1. Take a new block, or a single unit if there is no room for a block.

        Costs at most one round trip for the block, and one for the single unit.
        """
        unit = yield from self._take_block(limiter, key)
        if unit is not None:
            return unit
        if (denial := limiter.known_denials.get(key, 1)) is not None:
            limiter.limits[denial.denied_by].count_denial()
            return denial
        return (yield from hit_check(limiter, key, 1, new_id()).ask(counts=True))

    def _take_block(self, limiter: LimitSet, key: str) -> Steps[Decision | None]:
        """Take a block for ``key`` and spend its first unit. Return None if there is no room for a block.

        Also return None if ``key`` is too long to be remembered, or while another caller takes a block for ``key``.
        Costs at most one round trip.
        """
        if len(key) > MAX_KEY or limiter.known_denials.get(key, self.size) is not None:
            return None
        with self._taking_alone(key) as alone:
            if not alone:
                return None
            if (unit := self.spend(key)) is not None:  # another caller has just taken a block
                return unit
            asked_at = self._clock()
            check = hit_check(limiter, key, self.size, new_id())
            decision = yield from check.ask()
            check.remember(decision)
            return self._hold(key, decision, asked_at) if decision.allowed else None

    @contextmanager
    def _taking_alone(self, key: str) -> Iterator[bool]:
        """Yield whether this caller alone takes a block for ``key``. If two did, one of the blocks would be lost."""
        me = object()
        try:
            yield self._taking.setdefault(key, me) is me
        finally:
            if self._taking.get(key) is me:
                del self._taking[key]

    def _hold(self, key: str, decision: Decision, asked_at: int) -> Decision:
        decision = decision._replace(cost=1)
        lifetime = min(self._period, microseconds(decision.reset_after)) if self._fixed else self._period
        self._blocks[key] = Block(deque([None] * (self.size - 1)), asked_at + lifetime, decision)
        if len(self._blocks) > _MAX_BLOCKS:
            self._blocks.popitem(last=False)
        return decision

    def put_back(self, key: str, decision: Decision) -> bool:
        """Put back one unit. Return False if this limiter no longer holds the unit's block."""
        block = self._blocks.get(key)
        if block is None or block.decision.lease_id != decision.lease_id:
            return False
        block.units.append(None)
        return True

    def return_unused(self, limiter: LimitSet) -> Steps[None]:
        """Give back the unused units of all blocks that have not ended. Costs one round trip for each key."""
        blocks, self._blocks = self._blocks, OrderedDict()
        now = self._clock()
        for key, block in blocks.items():
            if block.until > now and (left := _empty(block.units)):
                unused = block.decision._replace(cost=left)
                yield "apply_best_effort", refund_calls(limiter, limiter.limits, key, unused), unused.local

    def clear(self) -> None:
        """Drop all blocks without giving units back."""
        self._blocks = OrderedDict()
        self._taking = {}


def _empty(units: deque[None]) -> int:
    """Remove all units, so that no thread can spend them. Return the number of units removed."""
    number = 0
    with suppress(IndexError):
        while True:
            units.pop()
            number += 1
    return number


_instances = renewed_after_fork(LocalQuota.clear)  # only the parent spends its blocks
