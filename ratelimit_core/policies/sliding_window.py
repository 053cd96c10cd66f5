"""Sliding window: an exact log of hits. No interval of one period contains more than ``limit`` hits.

Each hit is a lease that ends one period later, so memory is O(limit). A reservation is a hit at a time in the future.
A later reservation gets a later time. When a reservation is redeemed, its hit moves to the time of the redemption. The
redemption is denied if the period before that time has no room. So the limit also holds if reservations are redeemed
late.
"""

HIT = 0
PEEK = 1
REFUND = 2
RESERVE = 3
REDEEM = 4


def sliding_window(
    op: int,
    cost: int,
    spare_leases: int,
    not_before: int,
    max_wait: int,
    now: int,
    active: int,
    ending_in_period: int,
    first_end: int,
    last_end: int,
    capacity_at: int,
    own_end: int,
    *,
    limit: int,
    period: int,
    spacing: int,
) -> tuple[int, ...]:
    """Decide one call.

    ``op`` is one of:

    * ``HIT`` records ``cost`` hits now, or is denied.
    * ``PEEK`` changes nothing.
    * ``REFUND`` removes the hits or the reservation of the lease id.
    * ``RESERVE`` reserves the first free time that is at least ``not_before`` and at most ``max_wait`` µs from now. If
      the lease id already has a reservation, the reservation is kept, or moved if it is earlier than ``not_before``.
    * ``REDEEM`` uses the reservation of the lease id, or hits if the lease id has no reservation. If the call is denied
      and the reservation is kept, ``ends`` is the end of its lease.

    A reservation can be redeemed once, until one period after its time. Consecutive reservations are at least
    ``spacing`` µs apart (``period / limit``, rounded up), so that waiting callers do not all wake at the same time.

    ``spare_leases`` is ``limit - cost``. Answers: the number of hits that are left, and µs until the log is empty.
    """
    allowed = 1
    wait = 0
    drop = 0
    add = 0
    ends = 0
    if op == REDEEM and own_end > now:
        wait = max(0, own_end - period - now)
        if wait == 0 and ending_in_period > limit:
            wait = first_end - now
        if wait > 0:
            allowed = 0
            ends = own_end
        else:
            drop = cost
            add = -cost
            ends = now + period
    elif op == REFUND:
        if own_end > 0:
            drop = cost
    else:
        free_at = max(now, capacity_at)
        keeps = 0
        if op == RESERVE:
            if own_end > now and max(now, own_end - period) >= now + not_before:
                keeps = 1
                free_at = max(now, own_end - period)
            else:
                if free_at > now:
                    free_at = max(free_at, last_end - period + spacing)
                free_at = max(free_at, now + not_before)
        wait = free_at - now
        if op == RESERVE and wait <= max_wait:
            if keeps == 0:
                add = cost
                ends = free_at + period
                if own_end > now + period:
                    drop = cost
        elif wait > 0:
            allowed = 0
        elif op == REDEEM:
            add = -cost
            ends = now + period
        elif op == HIT:
            add = cost
            ends = now + period

    kept = active - drop + max(add, -add)
    empty_at = max(last_end, ends, now)
    return allowed, wait, max(0, limit - kept), empty_at - now, empty_at, drop, add, ends
