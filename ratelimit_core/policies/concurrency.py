"""Concurrency: at most ``limit`` leases at a time. Each ends at its own deadline.

If a holder dies, its place is free again when its lease ends. A holder that needs longer asks again with the same
lease id.
"""

HIT = 0
PEEK = 1
REFUND = 2
RENEW = 3


def concurrency(
    op: int,
    cost: int,
    spare_leases: int,
    now: int,
    active: int,
    capacity_at: int,
    own_end: int,
    *,
    limit: int,
    timeout: int,
) -> tuple[int, ...]:
    """Decide one call: ``HIT`` takes or renews ``cost`` places, ``REFUND`` gives them back, ``PEEK`` changes nothing.

    ``RENEW`` is for another process than the holder: it renews leases that have not ended, and takes no new ones.

    ``spare_leases`` is ``limit - cost``. ``timeout`` is in µs. Answers: places left, and µs until there is room for
    ``cost`` (0: now).
    """
    allowed = 1
    wait = 0
    drop = 0
    add = 0
    ends = 0
    kept = active
    if op == REFUND:
        if own_end > 0:
            drop = cost
            kept -= cost
    elif op == RENEW:
        if own_end > 0:
            drop = cost
            add = cost
            ends = now + timeout
    elif own_end == 0 and capacity_at > now:
        allowed = 0
        wait = capacity_at - now
    elif op == HIT:
        add = cost
        ends = now + timeout
        if own_end > 0:
            drop = cost
        else:
            kept += cost
    return allowed, wait, max(0, limit - kept), wait, max(now, ends), drop, add, ends
