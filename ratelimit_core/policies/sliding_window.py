"""Sliding window: the exact log. Never more than ``limit`` in any interval of one period.

Each hit is a lease that ends one period later; memory is O(limit). A reservation is a hit whose time has not
come: it is in the log from the start, so later ones queue behind it. When its ticket is redeemed the hit
moves to the time at which it really happens, and only if the window that ends there has room: the number
holds for what runs, not for what was planned.
"""

HIT = 0
PEEK = 1
REFUND = 2
RESERVE = 3
REDEEM = 4


def sliding_window(
    op: int,
    cost: int,
    slots: int,
    floor: int,
    max_wait: int,
    now: int,
    held: int,
    current: int,
    next_end: int,
    newest: int,
    room_at: int,
    mine: int,
    *,
    limit: int,
    period: int,
    spacing: int,
) -> tuple[int, ...]:
    """Decide one call of an exact log; ``slots`` is ``limit - cost``.

    ``op`` as in a token bucket; ``RESERVE`` keeps a slot that the ticket holds, or moves it where that is sooner than
    ``floor``. Reserved slots lie ``spacing`` apart (``period / limit``), so that those who wait don't all wake at once.
    A ticket is good once, until one period after its slot; what comes later hits anew. Where ``REDEEM`` is denied and
    the slot kept, ``ends`` is when it ends.

    Answers: how many are left, and µs until the log is empty.
    """
    allowed = 1
    wait = 0
    drop = 0
    add = 0
    ends = 0
    if op == REDEEM and mine > now:
        wait = max(0, mine - period - now)
        if wait == 0 and current > limit:
            wait = next_end - now
        if wait > 0:
            allowed = 0
            ends = mine
        else:
            drop = cost
            add = -cost
            ends = now + period
    elif op == REFUND:
        if mine > 0:
            drop = cost
    else:
        slot = max(now, room_at)
        keeps = 0
        if op == RESERVE:
            if mine > now and max(now, mine - period) >= now + floor:
                keeps = 1
                slot = max(now, mine - period)
            else:
                if slot > now:
                    slot = max(slot, newest - period + spacing)
                slot = max(slot, now + floor)
        wait = slot - now
        if op == RESERVE and wait <= max_wait:
            if keeps == 0:
                add = cost
                ends = slot + period
                if mine > now + period:
                    drop = cost
        elif wait > 0:
            allowed = 0
        elif op == REDEEM:
            add = -cost
            ends = now + period
        elif op == HIT:
            add = cost
            ends = now + period

    kept = held - drop + max(add, -add)
    empty_at = max(newest, ends, now)
    return allowed, wait, max(0, limit - kept), empty_at - now, empty_at, drop, add, ends
