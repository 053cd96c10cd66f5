"""A plain counter: how many there were since a window began, and no opinion about it.

A window begins with its first hit and lasts for the period that this hit named; by so much longer, if the
clock goes back.
"""

HIT = 0
PEEK = 1


def counter(count: int, ends: int, /, op: int, cost: int, period: int, now: int) -> tuple[int, ...]:
    """Decide one call, always allowed: ``HIT`` counts ``cost``, ``PEEK`` counts nothing.

    Answers: the count, and µs until the window ends.
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
