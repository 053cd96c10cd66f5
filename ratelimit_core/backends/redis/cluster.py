"""Calls of several cluster slots, decided slot by slot."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from ...policies import ALLOWED, Verdict
from ...protocol.call import Call
from .keys import ClusterKeys, Question


def in_turn(calls: Sequence[Call]) -> Generator[Question, list[Verdict], list[Verdict]]:
    """Ask the calls bucket by bucket, each atomically; what they come to is sent back in.

    The bucket of the last call comes last. First all buckets but the one that is first to write are asked without
    writing: if one of them denies, nothing is written in any. Only what another process takes in between can deny
    after something was written, which then stays.
    """
    verdicts: list[Verdict] = [()] * len(calls)

    def asked(places: list[int], look: bool) -> Generator[Question, list[Verdict], bool]:
        answers = yield [calls[place] for place in places], look
        for place, verdict in zip(places, answers, strict=True):
            verdicts[place] = verdict
        return all(verdict[ALLOWED] for verdict in answers)

    buckets: dict[int, list[int]] = {}
    for place, call in enumerate(calls):
        bucket = ClusterKeys.bucket(call.key[0])
        buckets[bucket] = [*buckets.pop(bucket, ()), place]
    first, *others = buckets.values()
    allowed = True
    for places in others:
        allowed = (yield from asked(places, True)) and allowed
    for places in (first, *others):
        if allowed or places is first:
            allowed = (yield from asked(places, not allowed)) and allowed
    return verdicts
