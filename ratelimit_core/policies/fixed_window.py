"""Fixed window: a count that starts again with the first hit after the window's end.

A window begins with its first hit, not on the clock's minute, so that not all keys are reset at the same moment. In any
interval of one period up to ``2 * limit`` calls may pass: at the end of one window and the beginning of the next.
"""

HIT = 0
PEEK = 1
REFUND = 2


def fixed_window(
    start: int, count: int, /, op: int, cost: int, now: int, *, limit: int, period: int
) -> tuple[int, ...]:
    """Decide one call: ``HIT`` counts ``cost``, ``PEEK`` counts nothing, ``REFUND`` takes ``cost`` back.

    A hit of an earlier window must not be refunded: the refund would be taken from the hits of this window.

    ``period`` is in µs. Answers: how many hits are left in this window, and µs until it ends.
    """
    allowed = 1
    wait = 0
    # If the clock went back, callers wait that much longer. If it went back by over a period, the record is void.
    if now >= start + period or now < start - period:
        start = now
        count = 0
    ends_in = start + period - now

    if op == REFUND:
        count = max(0, count - cost)
    elif count + cost > limit:
        allowed = 0
        wait = ends_in
    elif op == HIT:
        count += cost

    expires = start + period
    if op == PEEK:
        expires = 0
    if count == 0:
        ends_in = 0
    return allowed, wait, max(0, limit - count), ends_in, expires, start, count
