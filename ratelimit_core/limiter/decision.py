"""The answer of a limiter."""

from __future__ import annotations

from typing import NamedTuple


class Decision(NamedTuple):
    """The answer of a limiter. It is true if the call is allowed. Times are in seconds.

    Attributes:
        allowed: whether the call may be made (with a reservation: after ``retry_after``).
        limit: the size of the limit that has the least left.
        remaining: how much is left of that limit.
        reset_after: until nothing counts as used any more: the longest over all limits.
        retry_after: until asking again makes sense, or until the reservation is due: the longest over all limits.
        lease_id: the id of what was taken, for :meth:`Limiter.refund` or :meth:`Limiter.redeem`.
        binding: the index of the limit that has the least left; among equals, of the one with the longest wait.
        denied_by: the index of the limit with the longest wait; with a reservation, of the limit that gave it.
        cost: how much was asked for.
        reservation_kept: if a redemption was denied: whether the reservation is still held, and due after
            ``retry_after``.
        consumed: every limit has counted the call. An allowed reservation with it has nothing left to redeem.
        local: this process decided alone, because the store was unavailable.
    """

    allowed: bool
    limit: int
    remaining: int
    reset_after: float
    retry_after: float
    lease_id: str = ""
    binding: int = 0
    denied_by: int = 0
    cost: int = 1
    reservation_kept: bool = False
    consumed: bool = False
    local: bool = False

    def __bool__(self) -> bool:
        return self.allowed
