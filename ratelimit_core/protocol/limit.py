"""The verdict of a limit's policy, by name."""

from __future__ import annotations

from typing import NamedTuple

from ..policies import ALLOWED, ANSWER, EXPIRES, OTHER_ANSWER, WAIT, Verdict

__all__ = ["ALLOWED", "LEASE_ENDS", "REMAINING", "RESET_AFTER", "WAIT", "LimitVerdict"]

REMAINING, RESET_AFTER, LEASE_ENDS = ANSWER, OTHER_ANSWER, -1
"""Indices into the verdict of a limit's policy, for code that can't afford to make a :class:`LimitVerdict`."""
_new = tuple.__new__
"""Makes a named tuple without the function that names its fields: it is on the path of every check."""


class LimitVerdict(NamedTuple):
    """What the policies of all limits answer. Times are in µs.

    Attributes:
        allowed: 1 or 0.
        wait: until asking again makes sense.
        remaining: how much is left.
        reset_after: until nothing counts as used.
        lease_ends: when the lease of the caller ends, if the policy has leases; 0 if the caller holds none.
    """

    allowed: int
    wait: int
    remaining: int
    reset_after: int
    lease_ends: int

    @classmethod
    def of(cls, verdict: Verdict) -> LimitVerdict:
        """Read a policy's verdict."""
        return _new(cls, verdict[:EXPIRES] + verdict[LEASE_ENDS:])
