"""The calls that a guard sends to a store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..policies import ALLOWED, Policy, Verdict

Key = tuple[str, str]
"""``(name, qualifier)``. A Redis Cluster keeps all records of one name in the same cluster slot."""


class Call(NamedTuple):
    """One call of one policy.

    ``key`` names the record. ``event`` and ``config`` are in the order of the policy's signature. ``lease_id`` is the
    id of the caller's lease. Calls with the same lease id must have the same cost.
    """

    policy: Policy
    key: Key
    event: tuple[int, ...]
    config: tuple[int, ...]
    lease_id: str = ""


def reject_duplicates(calls: Sequence[Call]) -> None:
    """Check that no two calls of a batch decide the same record.

    The second decision would not see the record that the first decision writes.

    Raises:
        ValueError: two calls have the same policy and key.
    """
    if len(calls) > 1:
        seen = set()
        for call in calls:
            record = call.policy.name, call.key
            if record in seen:
                raise ValueError(
                    f"two calls of one batch have the policy {record[0]!r} and the key {record[1]!r}: "
                    "send the second call in another batch"
                )
            seen.add(record)


def is_allowed(verdicts: Sequence[Verdict]) -> bool:
    """Return whether every call of a batch is allowed."""
    return all(verdict[ALLOWED] for verdict in verdicts)
