"""Sliding window counter: O(1), and never more than ``limit`` in any interval of one period.

The period is cut into four slices. The current slice and the four before it are counted whole, so the count covers at
least one period, and at most one and a quarter. Constant memory costs throughput: a caller that is always at the limit
gets 80 % of it. (The usual counter of two weighted windows lets up to twice the limit pass if the hits of the earlier
window came at its end.)
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
    """Decide one call; ``quarter`` is a quarter of the period in µs, rounded up. ``c0`` is the current slice's count.

    A hit of over a period ago must not be refunded: the refund would be taken from later hits.

    Answers: how many hits are left, and µs until no hit is counted.
    """
    allowed = 1
    wait = 0
    # If the clock went back, callers wait that much longer. If it went back by over a period, the record is void.
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
        # Taken from the oldest slice first: then no slice counts less than was really used since it began.
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
