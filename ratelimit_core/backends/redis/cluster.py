"""Calls of several cluster slots, decided slot by slot."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import NamedTuple

from ...policies import ALLOWED, Verdict
from ...protocol.call import Call
from .keys import ClusterKeys


class SlotBatch(NamedTuple):
    """Calls of one slot, to be decided atomically. A ``dry_run`` writes nothing."""

    calls: Sequence[Call]
    dry_run: bool = False


def apply_per_slot(calls: Sequence[Call]) -> Generator[SlotBatch, list[Verdict], list[Verdict]]:
    """Yield one batch after the other for :func:`ratelimit_core._util.steps.run`, and return all verdicts.

    The slot of the last call comes last. All slots but the one that is first to write are asked without writing: if one
    of them denies, nothing is written in any. A slot can deny after another one was written only if another process
    takes the last place in between. What was written then stays.
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
