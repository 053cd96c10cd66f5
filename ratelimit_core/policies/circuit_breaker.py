"""The circuit breaker: closed, open, half-open.

Counts *consecutive* failures in the order in which the store learns of them, and, where a window is set,
the rate of failed and of slow calls over a sliding window of two halves. Every change of state starts a new
generation; testimony of another generation is dropped. Half-open probes are leases: a prober that dies
frees its place when its lease ends. A person's word (a mode) goes before all of that, for as long as it was given.

Source: M. Nygard, "Release It!", ch. 5; the generation is gobreaker's, the window counter Cloudflare's.
"""

CLOSED = 0
OPEN = 1
HALF_OPEN = 2

ASK = 0
REPORT = 1
PEEK = 2
FORCE = 3

AUTOMATIC = 0
FORCED_OPEN = 1
FORCED_CLOSED = 2
DISABLED = 3
SHADOW = 4

FOREVER = 9_000_000_000_000_000


def breaker(
    state: int,
    generation: int,
    failures: int,
    last_failure: int,
    changed_at: int,
    retry_at: int,
    delay: int,
    passed: int,
    window_start: int,
    calls: int,
    failed: int,
    slowed: int,
    calls_before: int,
    failed_before: int,
    slowed_before: int,
    mode: int,
    mode_until: int,
    settings: int,
    /,
    op: int,
    seen: int,
    good: int,
    age: int,
    bad: int,
    slow: int,
    span: int,
    dice: int,
    to: int,
    now: int,
    held: int,
    room_at: int,
    mine: int,
    *,
    failure_threshold: int,
    success_threshold: int,
    slots: int,
    recovery: int,
    multiplier: int,
    max_delay: int,
    reset: int,
    probe_timeout: int,
    keep: int,
    window: int,
    minimum_calls: int,
    failure_rate: int,
    slow_rate: int,
    ramp: int,
    shadow: int,
    fingerprint: int,
) -> tuple[int, ...]:
    """Decide one call of a breaker.

    ``op``: ``ASK`` for a permit, ``REPORT`` an outcome and give a probe's lease back, ``PEEK``, or ``FORCE`` the
    mode ``to``, which lasts ``span`` (0: until another is forced). The first two may carry testimony of
    generation ``seen``: ``good`` successes, the newest ``age`` µs old; and ``REPORT``, which is never denied,
    then ``bad`` failures; ``slow`` of them were slow; ``span`` opens the breaker for just that long. A ``REPORT``
    that does not know the generation (``seen=0``) is of the present one if its call began, ``age`` µs ago, in it.
    ``slots`` is ``half_open_max_calls - 1``; ``multiplier`` and the rates are in thousandths; ``window=0``
    counts no rates.

    Modes: ``FORCED_OPEN`` refuses all; ``FORCED_CLOSED`` refuses none, counts and never opens; ``DISABLED`` does
    not even count; ``SHADOW``, as the configuration's ``shadow=1``, decides as always and refuses none.

    For ``ramp`` after it closed, the chance of a permit rises from a tenth to one; ``dice``, below 1000, is the
    caller's luck. Allowed then, ``wait`` says how much longer every call has to ask.

    While the breaker is open, ``wait`` is the time until it may be probed, whatever was asked; forced open, until that
    and its own opening have both ended. Who reports a failure while it is half-open has to wait too, until there is a
    place for another probe. A clock that went back beyond the moment of opening allows a probe at once, rather than
    never.

    ``fingerprint`` stands for the caller's configuration, 0 for none of its own. The record keeps that of whoever came
    last and did not know the generation, so that two configurations of one breaker find out about each other.

    Answers: the state before this call, and the number of probes under way.
    """
    was = state
    allowed = 1
    wait = 0
    drop = 0
    add = 0
    ends = 0
    trip = 0

    if op == REPORT and mine > 0:
        drop = 1

    if op == FORCE:
        mode = to
        mode_until = 0
        if span > 0:
            mode_until = now + span
    elif 0 < mode_until <= now:
        mode = AUTOMATIC
        mode_until = 0

    if op == REPORT and seen == 0 and now - age >= changed_at:
        seen = generation
    if op < PEEK and mode != DISABLED and seen == generation and good + bad > 0:
        if state == CLOSED:
            if good > 0 and (age <= 0 or now - age > last_failure):
                failures = 0
            if bad > 0:
                failures += bad
                last_failure = now
            if window > 0:
                into = now - window_start
                if into >= 2 * window or into < 0:
                    window_start = now
                    into = 0
                    calls = 0
                    failed = 0
                    slowed = 0
                    calls_before = 0
                    failed_before = 0
                    slowed_before = 0
                elif into >= window:
                    window_start += window
                    into -= window
                    calls_before, calls = calls, 0
                    failed_before, failed = failed, 0
                    slowed_before, slowed = slowed, 0
                if age < window:
                    calls += good
                calls += bad
                failed += bad
                slowed += slow
                weight = (window - into) * 1000 // window
                total = calls * 1000 + calls_before * weight
                if total >= minimum_calls * 1000 and bad + slow > 0:
                    if failure_rate > 0 and (failed * 1000 + failed_before * weight) * 1000 >= failure_rate * total:
                        trip = 1
                    if slow_rate > 0 and (slowed * 1000 + slowed_before * weight) * 1000 >= slow_rate * total:
                        trip = 1
            if bad > 0 and (failures >= failure_threshold or span > 0):
                trip = 1
        elif state == HALF_OPEN:
            if bad > 0 or (slow_rate > 0 and slow > 0):
                failures += bad
                last_failure = now
                trip = 1
            else:
                passed += good
                if passed >= success_threshold:
                    state = CLOSED
                    generation = max(generation + 1, now)
                    changed_at = now
                    retry_at = 0
                    failures = 0
                    calls = 0
                    failed = 0
                    slowed = 0
                    calls_before = 0
                    failed_before = 0
                    slowed_before = 0

    if trip == 1 and mode != FORCED_OPEN and mode != FORCED_CLOSED:
        if state == CLOSED and now - changed_at >= reset:
            delay = 0
        if span > 0:
            retry_at = now + span
        else:
            if delay == 0:
                delay = recovery
            else:
                delay = max(recovery, min(max_delay, (delay * multiplier + 999) // 1000))
            retry_at = now + delay
        state = OPEN
        generation = max(generation + 1, now)
        changed_at = now
        passed = 0

    if mode == FORCED_OPEN:
        wait = recovery
        if mode_until > 0:
            wait = mode_until - now
        if state == OPEN and changed_at <= now:
            wait = max(wait, retry_at - now)
        if op == ASK:
            allowed = 0
    elif mode == FORCED_CLOSED or mode == DISABLED:
        wait = 0
    elif state == CLOSED:
        if op == ASK and 0 <= now - changed_at < ramp:
            wait = ramp - (now - changed_at)
            if dice >= max(100, (now - changed_at) * 1000 // ramp):
                allowed = 0
                wait = min(wait, ramp // 10 + 1)
    else:
        if state == OPEN and changed_at <= now < retry_at:
            wait = retry_at - now
        elif op == REPORT and bad > 0:
            wait = max(1, min(room_at - now, recovery))
        if op == ASK:
            if wait > 0:
                allowed = 0
            elif mine == 0 and room_at > now:
                allowed = 0
                wait = min(room_at - now, recovery)
            else:
                if mine == 0:
                    add = 1
                    ends = now + probe_timeout
                if state == OPEN:
                    state = HALF_OPEN
                    generation = max(generation + 1, now)
                    changed_at = now
                    passed = 0
    if mode == SHADOW or (shadow == 1 and mode == AUTOMATIC):
        allowed = 1
        wait = 0

    if op == ASK and seen != generation and fingerprint > 0:
        settings = fingerprint
    # Who comes first makes the first generation, so that none is used again after the store was flushed.
    if (op == ASK or op == FORCE) and generation == 0:
        generation = now

    expires = 0
    if op != PEEK:
        expires = max(now, retry_at, mode_until) + keep
        if mode != AUTOMATIC and mode_until == 0:
            expires = FOREVER
    return (
        allowed,
        wait,
        was,
        held,
        expires,
        state,
        generation,
        failures,
        last_failure,
        changed_at,
        retry_at,
        delay,
        passed,
        window_start,
        calls,
        failed,
        slowed,
        calls_before,
        failed_before,
        slowed_before,
        mode,
        mode_until,
        settings,
        drop,
        add,
        ends,
    )
