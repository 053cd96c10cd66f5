"""Names for the numbers in the verdict of a limit's policy."""

from __future__ import annotations

from typing import NamedTuple

from ..policies import ALLOWED, ANSWER, EXPIRES, OTHER_ANSWER, WAIT, Verdict

__all__ = ["ALLOWED", "LEASE_ENDS", "REMAINING", "RESET_AFTER", "WAIT", "LimitVerdict"]

REMAINING, RESET_AFTER, LEASE_ENDS = ANSWER, OTHER_ANSWER, -1
"""Indices into the verdict of a limit's policy, for code that is called too often to make a :class:`LimitVerdict`."""
_new = tuple.__new__
"""Makes a named tuple faster than a call of its class. Every check of a limit makes one."""


class LimitVerdict(NamedTuple):
    """The part of a verdict that the policies of all limits have. Times are in µs.

    Attributes:
        allowed: 1, or 0 if the call is denied.
        wait: the time until asking again makes sense.
        remaining: the number of units that are left.
        reset_after: the time until no unit counts as used. For concurrency, the same as ``wait``.
        lease_ends: the end of the leases that the call added, or 0. If the call is denied, the end of the lease that
            the caller still holds, or 0. This field has no meaning if the policy has no leases.
    """

    allowed: int
    wait: int
    remaining: int
    reset_after: int
    lease_ends: int

    @classmethod
    def of(cls, verdict: Verdict) -> LimitVerdict:
        """Return the named part of a policy's verdict."""
        return _new(cls, verdict[:EXPIRES] + verdict[LEASE_ENDS:])
