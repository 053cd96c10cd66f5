"""Token bucket and leaky bucket, as GCRA: one number stores the time at which the bucket will be full again.

``burst`` tokens may be spent at once, and one token returns every ``interval``. A bucket with ``burst=1`` is a leaky
bucket, which spaces calls evenly. In any interval of one period at most ``burst + limit`` calls pass, because the
bucket may be full when the interval begins.

A reservation spends tokens that have not returned yet. The reservation holds a lease, which ends ``tolerance`` after
the reserved time. Until then the reservation can be redeemed once.

Source: ITU-T I.371, the virtual scheduling algorithm (GCRA).
"""

HIT = 0
PEEK = 1
REFUND = 2
RESERVE = 3
REDEEM = 4


def token_bucket(
    full_at: int,
    updated_at: int,
    /,
    op: int,
    cost: int,
    not_before: int,
    max_wait: int,
    now: int,
    own_end: int,
    *,
    interval: int,
    burst: int,
    tolerance: int,
) -> tuple[int, ...]:
    """Decide one call.

    ``op`` is one of:

    * ``HIT`` spends ``cost`` tokens now, or is denied.
    * ``PEEK`` spends no tokens.
    * ``RESERVE`` reserves the first free time that is at least ``not_before`` and at most ``max_wait`` µs from now.
    * ``REDEEM`` uses the reservation of the lease id, or hits if the lease id has no reservation. If the call is denied
      and the reservation is kept, ``ends`` is the end of its lease.
    * ``REFUND`` returns up to ``cost`` tokens, or ends the reservation of the lease id. The tokens of a reservation
      return only if it is the last reservation. Otherwise the later reservations would be too close together.

    ``interval`` and ``tolerance`` are in µs. Answers: the tokens that are left, and µs until the bucket is full.
    """
    allowed = 1
    wait = 0
    drop = 0
    add = 0
    ends = 0
    depth = burst * interval
    price = cost * interval
    # If the clock went back a little, callers wait longer by that time. If it went back a lot, the bucket is full.
    if now < updated_at - depth:
        full_at = 0
    base = max(full_at, now)
    free_at = max(now, base + price - depth)

    if op == REDEEM and own_end > 0:
        wait = max(0, own_end - tolerance - now)
        if wait > 0:
            allowed = 0
            ends = own_end
        else:
            drop = 1
    elif op == REFUND:
        if own_end > 0:
            drop = 1
            reserved_at = own_end - tolerance
            if reserved_at > now and (full_at == reserved_at + depth or full_at == reserved_at + price):
                full_at -= price
        else:
            full_at = max(now, base - price)
    elif op == RESERVE:
        free_at = max(free_at, now + not_before)
        wait = free_at - now
        if wait > max_wait:
            allowed = 0
        else:
            full_at = max(base, free_at) + price
            add = 1
            ends = free_at + tolerance
            if own_end > 0:
                drop = 1
    else:
        wait = free_at - now
        if wait > 0:
            allowed = 0
        elif op != PEEK:
            full_at = base + price

    expires = 0
    if op != PEEK:
        updated_at = now
        expires = max(full_at, now + depth)
    full_in = max(0, full_at - now)
    return allowed, wait, max(0, depth - full_in) // interval, full_in, expires, full_at, updated_at, drop, add, ends
