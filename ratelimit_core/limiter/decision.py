"""The answer of a limiter."""

from __future__ import annotations

from typing import NamedTuple


class Decision(NamedTuple):
    """The answer of a limiter. A decision is true if the call is allowed. Times are in seconds.

    Attributes:
        allowed: whether the call may be made. For a reservation: whether the call may be made after ``retry_after``.
        limit: the size of the limit at index ``binding``.
        remaining: the units that the limit at index ``binding`` has left.
        reset_after: the time until no hit counts as used any more. Of several limits, the longest time.
        retry_after: the time until asking again makes sense, or until the reservation is due. Of several limits, the
            longest time.
        lease_id: the id of the hit or reservation.
        binding: the index of the limit with the fewest units left. Among equals it is the one with the longest wait. If
            the call is denied, only the limits that deny it are compared.
        denied_by: the index of the limit with the longest wait. If the call is denied, this limit denies it.
        cost: the units that the call asked for.
        reservation_kept: after a denied redemption, whether the reservation is still held and due after
            ``retry_after``.
        consumed: whether every limit has counted the call. If so, an allowed reservation need not be redeemed.
        local: whether this process decided alone, because the store was unavailable.
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
