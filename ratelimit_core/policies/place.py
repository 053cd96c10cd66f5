"""Place: a place is free, or it is taken by one holder.

Tasks that wait use places in pairs. In each source queue, a waiting key holds a number, and a number is held by a
waiting key. Both places are taken in one batch, so two keys never hold the same number, and no key holds two numbers.

A place ends ``keep`` after its holder last asked for ``TAKE``, ``TOUCH`` or ``TURN``, so that places of a fleet that is
gone do not stay for ever.
"""

PEEK = 0
TAKE = 1
TOUCH = 2
LEAVE = 3
TURN = 4


def place(
    holder: int,
    taken_at: int,
    touched_at: int,
    turn: int,
    turned_at: int,
    /,
    op: int,
    caller: int,
    margin: int,
    now: int,
    *,
    keep: int,
) -> tuple[int, ...]:
    """Decide one call.

    ``op`` is one of:

    * ``PEEK`` changes nothing. It is denied if the place is taken, so a newcomer that peeks goes behind the holder.
    * ``TAKE`` takes the place for ``caller``, an integer above 0. It is denied if another holder has the place. If
      ``caller`` already has the place, ``TAKE`` touches it.
    * ``TOUCH`` says that ``caller`` still needs the place.
    * ``TURN`` assigns the next turn to ask for ``caller``. The turns of all processes are ``margin`` apart.
    * ``LEAVE`` frees the place of ``caller``. It is denied if another holder has the place, and if the place was taken
      or touched less than ``margin`` ago.

    ``TOUCH`` and ``TURN`` are always allowed. They change nothing if ``caller`` does not have the place.

    ``wait`` is the time until the assigned turn, or until ``LEAVE`` is possible. ``margin`` and ``keep`` are in µs.
    Answers: the holder, or 0 if the place is free; and µs since the place was taken.

    If the clock went back, what was noted in the future counts as noted now, until a ``TAKE``, ``TOUCH`` or ``TURN`` of
    the holder notes the present time. Until then, ``LEAVE`` is denied, and its wait does not become shorter.
    """
    allowed = 1
    wait = 0
    expires = 0
    taken_at = min(taken_at, now)
    touched_at = min(touched_at, now)
    if turned_at > now:
        # The clock went back, so the turns go back with it. Otherwise, no process would ask until it has caught up.
        turn = turn - turned_at + now
        turned_at = now

    if op == PEEK:
        if holder > 0:
            allowed = 0
    elif op == TAKE and holder == 0:
        holder = caller
        taken_at = now
        touched_at = now
        turn = now
        turned_at = now
        expires = now + keep
    elif holder != caller:
        if op == TAKE or op == LEAVE:
            allowed = 0
    elif op == LEAVE:
        wait = max(0, touched_at + margin - now)
        if wait > 0:
            allowed = 0
        else:
            holder = 0
            expires = now
    elif op == TURN:
        turn = max(turn, now)
        turned_at = now
        wait = turn - now
        turn += margin
        expires = now + keep
    else:
        touched_at = now
        expires = now + keep

    since = 0
    if holder > 0:
        since = now - taken_at
    return allowed, wait, holder, since, expires, holder, taken_at, touched_at, turn, turned_at
