"""Concurrency: at most ``limit`` leases at a time, each of which ends at a deadline of its own.

A holder that dies frees its place when its lease ends; one that lives asks again with the same ticket to
hold it longer.
"""

HIT = 0
PEEK = 1
REFUND = 2
RENEW = 3


def concurrency(
    op: int, cost: int, slots: int, now: int, held: int, room_at: int, mine: int, *, limit: int, timeout: int
) -> tuple[int, ...]:
    """Decide one call: ``HIT`` takes or renews ``cost`` places, ``REFUND`` gives them back, ``PEEK`` looks.

    ``RENEW`` is for somebody else than the holder: it renews what is held still, and takes nothing.

    ``slots`` is ``limit - cost``. Answers: places left, and µs until there is room for ``cost`` (0: now).
    """
    allowed = 1
    wait = 0
    drop = 0
    add = 0
    ends = 0
    kept = held
    if op == REFUND:
        if mine > 0:
            drop = cost
            kept -= cost
    elif op == RENEW:
        if mine > 0:
            drop = cost
            add = cost
            ends = now + timeout
    elif mine == 0 and room_at > now:
        allowed = 0
        wait = room_at - now
    elif op == HIT:
        add = cost
        ends = now + timeout
        if mine > 0:
            drop = cost
        else:
            kept += cost
    return allowed, wait, max(0, limit - kept), wait, max(now, ends), drop, add, ends
