"""What a limiter answers."""

from __future__ import annotations

from typing import NamedTuple


class Decision(NamedTuple):
    """What a limiter answered. True if it allowed. Times are in seconds.

    Attributes:
        allowed: whether the call may be made (of a reservation: after ``retry_after``).
        limit: of the limit that has the least left.
        remaining: how many are left of that one.
        reset_after: until all that was used is back: the longest over all limits.
        retry_after: until asking again makes sense, or until the reserved slot: the longest over all limits.
        ticket: names what was taken, for :meth:`Limiter.refund` or :meth:`Limiter.redeem`.
        binding: the limit that has the least left, by its place; of several alike the one with the longest wait.
        denied_by: the limit with the longest wait, by its place; of a reservation, the one that gave the slot.
        cost: how much was asked for.
        reservation_kept: denied a redemption, whether the slot is still held, for ``retry_after`` from now.
        consumed: every limit has counted it. Of an allowed reservation: nothing is left to redeem.
        local: decided by this process alone, because the store is away.
    """

    allowed: bool
    limit: int
    remaining: int
    reset_after: float
    retry_after: float
    ticket: str = ""
    binding: int = 0
    denied_by: int = 0
    cost: int = 1
    reservation_kept: bool = False
    consumed: bool = False
    local: bool = False

    def __bool__(self) -> bool:
        return self.allowed
