"""Token bucket and leaky bucket, as GCRA: one number says when the bucket will be full again.

``burst`` tokens may be spent at once and one comes back every ``interval``; with ``burst=1`` it is a leaky
bucket that spaces calls evenly. In any interval of one period at most ``burst + limit`` pass, since the
bucket may be full when the interval begins.

A reservation spends now a token that will only be there later. Its ticket is a lease that ends ``tolerance``
after the slot: redeemed once, and not later.

Source: ITU-T I.371, the virtual scheduling algorithm (GCRA).
"""

HIT = 0
PEEK = 1
REFUND = 2
RESERVE = 3
REDEEM = 4


def token_bucket(
    full_at: int,
    seen: int,
    /,
    op: int,
    cost: int,
    floor: int,
    max_wait: int,
    now: int,
    mine: int,
    *,
    interval: int,
    burst: int,
    tolerance: int,
) -> tuple[int, ...]:
    """Decide one call of a token bucket.

    ``op``: ``HIT`` spends ``cost`` tokens now or is denied; ``PEEK`` spends none; ``RESERVE`` takes the first
    slot that is no sooner than ``floor`` and no later than ``max_wait`` from now; ``REDEEM`` spends a ticket,
    or hits where there is none; ``REFUND`` gives back what can be given back: tokens not yet regained, or,
    with a ticket, the newest future slot (another one is forfeited: winding back a middle slot would let the
    slots behind it crowd). Where ``REDEEM`` is denied and the slot kept, ``ends`` is when it ends.

    Answers: tokens left, and µs until the bucket is full.
    """
    allowed = 1
    wait = 0
    drop = 0
    add = 0
    ends = 0
    depth = burst * interval
    price = cost * interval
    # A clock that went back a little makes callers wait that much longer; a lot, and the record is void.
    if now < seen - depth:
        full_at = 0
    base = max(full_at, now)
    slot = max(now, base + price - depth)

    if op == REDEEM and mine > 0:
        wait = max(0, mine - tolerance - now)
        if wait > 0:
            allowed = 0
            ends = mine
        else:
            drop = 1
    elif op == REFUND:
        if mine > 0:
            drop = 1
            slot = mine - tolerance
            if slot > now and (full_at == slot + depth or full_at == slot + price):
                full_at -= price
        else:
            full_at = max(now, base - price)
    elif op == RESERVE:
        slot = max(slot, now + floor)
        wait = slot - now
        if wait > max_wait:
            allowed = 0
        else:
            full_at = max(base, slot) + price
            add = 1
            ends = slot + tolerance
            if mine > 0:
                drop = 1
    else:
        wait = slot - now
        if wait > 0:
            allowed = 0
        elif op != PEEK:
            full_at = base + price

    expires = 0
    if op != PEEK:
        seen = now
        expires = max(full_at, now + depth)
    full_in = max(0, full_at - now)
    return allowed, wait, max(0, depth - full_in) // interval, full_in, expires, full_at, seen, drop, add, ends
