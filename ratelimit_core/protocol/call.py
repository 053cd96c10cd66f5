"""What a guard asks a store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..policies import Policy

Key = tuple[str, str]
"""``(name, qualifier)``. What has one name lies together: in a Redis Cluster, in one slot."""


class Call(NamedTuple):
    """One question to one policy.

    ``key`` names the record. ``event`` and ``config`` are in the order of the policy's signature; ``ticket`` names
    the lease that is the caller's own, and always comes with the same cost.
    """

    policy: Policy
    key: Key
    event: tuple[int, ...]
    config: tuple[int, ...]
    ticket: str = ""


def refuse_duplicates(calls: Sequence[Call]) -> None:
    """A record can be decided once in a call: the second would not see what the first is about to write."""
    if len(calls) > 1:
        seen = set()
        for call in calls:
            record = call.policy.name, call.key
            if record in seen:
                raise ValueError(f"the same record twice in one call: {record[0]} of {record[1]}")
            seen.add(record)
