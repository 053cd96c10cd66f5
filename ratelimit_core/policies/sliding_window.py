"""Sliding window: the exact log. Never more than ``limit`` in any interval of one period.

Each hit is a lease that ends one period later; memory is O(limit). A reservation is a hit in the future. It is in the
log from the start, so later reservations queue behind it. When it is redeemed, the hit moves to the time of the
redemption, and only if the window that ends there has room. So the limit holds for the calls that run, not for the
calls that were planned.
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
    """Decide one call of an exact log.

    ``op`` is as in a token bucket. ``RESERVE`` takes the first free time at least ``not_before`` and at most
    ``max_wait`` µs from now. A reservation that the lease id already has is kept, or moved if it is too early. Reserved
    times lie ``spacing`` µs apart (``period / limit``), so that waiting callers do not all wake at once. A lease id can
    be redeemed once, until one period after its time; a later ``REDEEM`` is a new hit. If ``REDEEM`` is denied and the
    reservation is kept, ``ends`` is when its lease ends.

    ``spare_leases`` is ``limit - cost``. Answers: how many hits are left, and µs until the log is empty.
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
