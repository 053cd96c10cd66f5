"""Concurrency: at most ``limit`` leases at a time. Each lease ends ``timeout`` after it was last renewed.

So a holder that dies does not keep its lease for ever. A holder that runs longer renews its lease by a hit with the
same lease id.
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
    """Decide one call.

    ``op`` is one of:

    * ``HIT`` acquires or renews ``cost`` leases.
    * ``PEEK`` changes nothing.
    * ``REFUND`` releases the leases.
    * ``RENEW`` renews leases that have not ended, and acquires no new leases. It is for processes that are not the
      holder.

    ``spare_leases`` is ``limit - cost``. ``timeout`` is in µs. Answers: the number of leases that are left, and µs
    until ``cost`` leases are available.
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
