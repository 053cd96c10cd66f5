"""Sliding window counter: no interval of one period contains more than ``limit`` hits, in constant memory.

The period is divided into four slices. The policy adds the counts of the current slice and of the four slices before
it, so the sum covers one to one and a quarter periods. The price is throughput: a caller that always asks gets 80 % of
the limit.

The usual counter of two weighted windows allows up to twice the limit, if all hits of the earlier window came at the
end of that window.
"""

HIT = 0
PEEK = 1
REFUND = 2


def sliding_window_counter(
    start: int,
    c0: int,
    c1: int,
    c2: int,
    c3: int,
    c4: int,
    /,
    op: int,
    cost: int,
    now: int,
    *,
    limit: int,
    quarter: int,
) -> tuple[int, ...]:
    """Decide one call. ``HIT`` counts ``cost``, ``PEEK`` counts nothing, and ``REFUND`` subtracts ``cost``.

    ``quarter`` is a quarter of the period in µs, rounded up. ``c0`` is the count of the current slice, and ``c4`` is
    that of the oldest slice. Do not refund a hit that is older than a period, because the refund would be subtracted
    from later hits.

    Answers: the number of hits that are left, and µs until no hit is counted.
    """
    allowed = 1
    wait = 0
    # If the clock went back, callers wait longer by that time. If it went back by over a period, all counts end.
    if now < start - 4 * quarter or now >= start + 5 * quarter:
        start = now
        c0, c1, c2, c3, c4 = 0, 0, 0, 0, 0
    if now >= start + quarter:
        start += quarter
        c0, c1, c2, c3, c4 = 0, c0, c1, c2, c3
    if now >= start + quarter:
        start += quarter
        c0, c1, c2, c3, c4 = 0, c0, c1, c2, c3
    if now >= start + quarter:
        start += quarter
        c0, c1, c2, c3, c4 = 0, c0, c1, c2, c3
    if now >= start + quarter:
        start += quarter
        c0, c1, c2, c3, c4 = 0, c0, c1, c2, c3

    room = limit - cost
    if op == REFUND:
        # Subtract from the oldest slice first, so that the sum of the newer slices never becomes too small.
        c4 -= cost
        c4, c3 = max(0, c4), c3 + min(0, c4)
        c3, c2 = max(0, c3), c2 + min(0, c3)
        c2, c1 = max(0, c2), c1 + min(0, c2)
        c1, c0 = max(0, c1), max(0, c0 + min(0, c1))
    elif c0 + c1 + c2 + c3 + c4 > room:
        allowed = 0
        wait = start + quarter - now
        if c0 + c1 + c2 + c3 > room:
            wait += quarter
        if c0 + c1 + c2 > room:
            wait += quarter
        if c0 + c1 > room:
            wait += quarter
        if c0 > room:
            wait += quarter
    elif op == HIT:
        c0 += cost

    empty_in = 0
    if c0 > 0:
        empty_in = start + 5 * quarter - now
    elif c1 > 0:
        empty_in = start + 4 * quarter - now
    elif c2 > 0:
        empty_in = start + 3 * quarter - now
    elif c3 > 0:
        empty_in = start + 2 * quarter - now
    elif c4 > 0:
        empty_in = start + quarter - now
    left = max(0, limit - c0 - c1 - c2 - c3 - c4)
    expires = max(now + empty_in, start + quarter)
    if op == PEEK:
        expires = 0
    return allowed, wait, left, empty_in, expires, start, c0, c1, c2, c3, c4
