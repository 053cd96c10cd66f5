"""The calls that a guard sends to a store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..policies import Policy

Key = tuple[str, str]
"""``(name, qualifier)``. Records of one name are stored together: in a Redis Cluster, in one slot."""


class Call(NamedTuple):
    """One call of one policy.

    ``key`` names the record. ``event`` and ``config`` are in the order of the policy's signature. ``lease_id`` names
    the caller's lease; one id always comes with the same cost.
    """

    policy: Policy
    key: Key
    event: tuple[int, ...]
    config: tuple[int, ...]
    lease_id: str = ""


def reject_duplicates(calls: Sequence[Call]) -> None:
    """Reject a batch that decides one record twice: the second decision would not see what the first one writes.

    Raises:
        ValueError: two calls have the same policy and key.
    """
    if len(calls) > 1:
        seen = set()
        for call in calls:
            record = call.policy.name, call.key
            if record in seen:
                raise ValueError(f"{record[0]} of {record[1]} is twice in one batch; send the second call on its own")
            seen.add(record)
