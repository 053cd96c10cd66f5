"""Fixed window: at most ``limit`` hits in one window. The first hit after a window's end begins a new window.

A window begins with its first hit and not on the clock's minute, so that the windows of different keys do not all end
at the same time. An interval of one period may contain up to ``2 * limit`` hits: ``limit`` at the end of one window,
and ``limit`` at the beginning of the next window.
"""

HIT = 0
PEEK = 1
REFUND = 2


def fixed_window(
    start: int, count: int, /, op: int, cost: int, now: int, *, limit: int, period: int
) -> tuple[int, ...]:
    """Decide one call. ``HIT`` counts ``cost``, ``PEEK`` counts nothing, and ``REFUND`` subtracts ``cost``.

    Do not refund a hit of an earlier window, because the refund would be subtracted from the count of this window.

    ``period`` is in µs. Answers: the number of hits that are left in this window, and µs until the window ends, or 0 if
    the count is 0.
    """
    allowed = 1
    wait = 0
    # If the clock went back, the window lasts longer. If it went back by over a period, a new window begins.
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
