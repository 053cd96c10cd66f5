"""Decide calls in several cluster slots, one slot after the other."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import NamedTuple

from ..._util.steps import Steps
from ...policies import ALLOWED, Verdict
from ...protocol.call import Call
from ..batches import Batches, apply_by_place
from .keys import ClusterKeys


class SlotBatch(NamedTuple):
    """Calls in one cluster slot, which are decided atomically. A ``dry_run`` writes nothing."""

    calls: Sequence[Call]
    dry_run: bool = False


class SlotBatches(NamedTuple):
    """Batches in one cluster slot. Each is decided on its own, until the number ``most`` is allowed."""

    batches: Batches
    most: int | None


def apply_each_per_slot(batches: Batches, most: int | None) -> Steps[list[list[Verdict]]]:
    """Do as :func:`apply_per_slot` does, for each batch. The batches in one slot are sent together."""

    def together(in_slot: Batches, left: int | None) -> Steps[list[list[Verdict]]]:
        verdicts: list[list[Verdict]] = yield SlotBatches(in_slot, left)
        return verdicts

    return apply_by_place(batches, most, ClusterKeys.bucket, together, apply_per_slot)


def apply_per_slot(calls: Sequence[Call]) -> Generator[SlotBatch, list[Verdict], list[Verdict]]:
    """Yield batches for :func:`ratelimit_core._util.steps.run`, and return all verdicts.

    First, all cluster slots except one are asked without writing. If one of them denies, no slot is written. Otherwise
    the slot that was not asked is written first, and the slot of the last call is written last. If other processes use
    up a limit meanwhile, a later slot may deny. The earlier slots then stay written.
    """
    verdicts: list[Verdict] = [()] * len(calls)

    def apply(indices: list[int], dry_run: bool) -> Generator[SlotBatch, list[Verdict], bool]:
        answers = yield SlotBatch([calls[i] for i in indices], dry_run)
        for i, verdict in zip(indices, answers, strict=True):
            verdicts[i] = verdict
        return all(verdict[ALLOWED] for verdict in answers)

    buckets: dict[int, list[int]] = {}
    for i, call in enumerate(calls):
        bucket = ClusterKeys.bucket(call.key[0])
        buckets[bucket] = [*buckets.pop(bucket, ()), i]
    first, *others = buckets.values()
    allowed = True
    for indices in others:
        allowed = (yield from apply(indices, True)) and allowed
    for indices in (first, *others):
        if allowed or indices is first:
            allowed = (yield from apply(indices, not allowed)) and allowed
    return verdicts
