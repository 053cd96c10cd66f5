"""Counter: the number of hits since the window began. A counter denies no hit.

A window begins with its first hit and lasts for the ``period`` of that hit. If the clock goes back, the window lasts
longer by the same time.
"""

HIT = 0
PEEK = 1


def counter(count: int, ends: int, /, op: int, cost: int, period: int, now: int) -> tuple[int, ...]:
    """Decide one call, which is always allowed. ``HIT`` counts ``cost``, and ``PEEK`` counts nothing.

    ``period`` is in µs. Answers: the count, and µs until the window ends.
    """
    if now >= ends:
        count = 0
        ends = now
        if op == HIT:
            ends = now + period
    expires = 0
    if op == HIT:
        count += cost
        expires = ends
    return 1, 0, count, ends - now, expires, count, ends
