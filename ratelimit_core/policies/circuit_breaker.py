"""The circuit breaker: closed, open, half-open.

A closed breaker counts *consecutive* failures, in the order in which the store learns of them. With a window it also
counts the rates of failed and of slow calls, over a sliding window of two halves. Each transition begins a new
generation, and outcomes of another generation are dropped. A half-open breaker lets a few probes through. A probe is a
lease, so a process that dies frees its place when the lease ends. An override, which an operator sets, comes before all
of that for as long as it lasts.

Times and durations are in µs, rates and chances in thousandths.

This module has over 300 lines because it lists the fields of the record and of the configuration one by one. The helper
functions follow in the order in which ``breaker`` calls them.

Source: M. Nygard, "Release It!", ch. 5; the generation is gobreaker's, the window counter Cloudflare's.
"""

# States.
CLOSED = 0
OPEN = 1
HALF_OPEN = 2

# Operations.
ASK = 0
REPORT = 1
PEEK = 2
FORCE = 3

# Modes: AUTOMATIC, or what an override says.
AUTOMATIC = 0
FORCED_OPEN = 1
FORCED_CLOSED = 2
DISABLED = 3
SHADOW = 4

FOREVER = 9_000_000_000_000_000


def breaker(
    state: int,
    current_generation: int,
    failure_count: int,
    last_failure_at: int,
    changed_at: int,
    retry_at: int,
    open_interval: int,
    probe_successes: int,
    window_start: int,
    calls: int,
    failed: int,
    slowed: int,
    calls_before: int,
    failed_before: int,
    slowed_before: int,
    mode: int,
    mode_until: int,
    last_fingerprint: int,
    /,
    op: int,
    generation: int,
    successes: int,
    success_age: int,
    failures: int,
    slow_calls: int,
    duration: int,
    random_permille: int,
    new_mode: int,
    now: int,
    active: int,
    capacity_at: int,
    own_end: int,
    *,
    failure_threshold: int,
    success_threshold: int,
    spare_probes: int,
    recovery_timeout: int,
    backoff_permille: int,
    max_interval: int,
    reset_timeout: int,
    probe_timeout: int,
    record_ttl: int,
    window: int,
    minimum_calls: int,
    failure_permille: int,
    slow_permille: int,
    slow_start: int,
    shadow: int,
    fingerprint: int,
) -> tuple[int, ...]:
    """Decide one call of a breaker.

    ``op`` is one of:

    * ``ASK`` for a permit. The call may carry ``successes`` that are not reported yet.
    * ``REPORT`` outcomes: ``successes`` and ``failures``, of which ``slow_calls`` were slow. This gives the caller's
      probe lease back, and is never denied. With ``duration`` a failure opens the breaker for exactly that long.
    * ``PEEK`` changes nothing.
    * ``FORCE`` the override ``new_mode`` for ``duration``; 0 means until another override.

    Outcomes belong to ``generation``, and the newest success is ``success_age`` old. A ``REPORT`` that does not know
    the generation sends 0 and the time since its call began: it counts if the call began in this generation.

    ``FORCED_OPEN`` refuses all calls. ``FORCED_CLOSED`` refuses none, counts, and never opens. ``DISABLED`` does not
    even count. ``SHADOW`` decides as always and refuses none, and so does ``shadow=1`` in the configuration.

    ``spare_probes`` is ``half_open_max_calls - 1``. ``window=0`` counts no rates. ``random_permille`` is a random
    number below 1000, for ``slow_start``. ``fingerprint`` identifies the caller's configuration, or is 0. The record
    keeps the one of the last caller that did not know the generation, so that processes with different configurations
    of one breaker notice.

    While the breaker is open, ``wait`` is the time until it may be probed, for every operation. A caller that reports a
    failure in half-open is told the time until there is a place for another probe. An allowed call is told how much
    longer every call has to ask. If the clock went back beyond the moment of opening, a probe is allowed at once.

    Answers: the state before this call, and the number of running probes.
    """
    state_before = state
    if op == FORCE:
        mode, mode_until = override(new_mode, duration, now)
    else:
        mode, mode_until = expire_override(mode, mode_until, now)

    if op == REPORT and generation == 0 and now - success_age >= changed_at:
        generation = current_generation
    tripped = 0
    passed = 0
    if op < PEEK and mode != DISABLED and generation == current_generation and successes + failures > 0:
        if state == CLOSED:
            failure_count, last_failure_at, tripped = count_consecutive(
                failure_count, last_failure_at, successes, success_age, failures, duration, failure_threshold, now
            )
            if window > 0:
                window_start, calls, failed, slowed, calls_before, failed_before, slowed_before = slide_window(
                    window_start, calls, failed, slowed, calls_before, failed_before, slowed_before, window, now
                )
                if success_age < window:
                    calls += successes
                calls += failures
                failed += failures
                slowed += slow_calls
            if window > 0 and tripped == 0 and failures + slow_calls > 0:
                weight = (window_start + window - now) * 1000 // window
                tripped = compare_rates(
                    calls * 1000 + calls_before * weight,
                    failed * 1000 + failed_before * weight,
                    slowed * 1000 + slowed_before * weight,
                    minimum_calls,
                    failure_permille,
                    slow_permille,
                )
        elif state == HALF_OPEN:
            if failures > 0 or (slow_permille > 0 and slow_calls > 0):
                failure_count += failures
                last_failure_at = now
                tripped = 1
            else:
                probe_successes += successes
                if probe_successes >= success_threshold:
                    passed = 1

    if passed == 1:
        state, current_generation, changed_at = change(CLOSED, current_generation, now)
        retry_at = 0
        failure_count = 0
        calls, failed, slowed = 0, 0, 0
        calls_before, failed_before, slowed_before = 0, 0, 0
    elif tripped == 1 and mode != FORCED_OPEN and mode != FORCED_CLOSED:
        if state == CLOSED and now - changed_at >= reset_timeout:
            open_interval = 0
        open_interval, retry_at = trip(open_interval, duration, recovery_timeout, backoff_permille, max_interval, now)
        state, current_generation, changed_at = change(OPEN, current_generation, now)
        probe_successes = 0

    allowed, wait = admit(
        op,
        state,
        changed_at,
        retry_at,
        mode,
        mode_until,
        failures,
        random_permille,
        capacity_at,
        own_end,
        recovery_timeout,
        slow_start,
        now,
    )
    drop = 0
    add = 0
    ends = 0
    if op == REPORT and own_end > 0:
        drop = 1
    if op == ASK and allowed == 1 and state != CLOSED and mode != FORCED_CLOSED and mode != DISABLED:
        if own_end == 0:
            add = 1
            ends = now + probe_timeout
        if state == OPEN:
            state, current_generation, changed_at = change(HALF_OPEN, current_generation, now)
            probe_successes = 0
    if mode == SHADOW or (shadow == 1 and mode == AUTOMATIC):
        allowed = 1
        wait = 0

    if op == ASK and generation != current_generation and fingerprint > 0:
        last_fingerprint = fingerprint
    # The first caller makes the first generation, so that none is used again after the store was flushed.
    if (op == ASK or op == FORCE) and current_generation == 0:
        current_generation = now
    expires = 0
    if op != PEEK:
        expires = expiry(retry_at, mode, mode_until, record_ttl, now)
    return (
        allowed,
        wait,
        state_before,
        active,
        expires,
        state,
        current_generation,
        failure_count,
        last_failure_at,
        changed_at,
        retry_at,
        open_interval,
        probe_successes,
        window_start,
        calls,
        failed,
        slowed,
        calls_before,
        failed_before,
        slowed_before,
        mode,
        mode_until,
        last_fingerprint,
        drop,
        add,
        ends,
    )


def override(new_mode: int, duration: int, now: int) -> tuple[int, int]:
    """Return the mode that an operator sets, and when it ends; 0 means never."""
    if duration > 0:
        return new_mode, now + duration
    return new_mode, 0


def expire_override(mode: int, mode_until: int, now: int) -> tuple[int, int]:
    """Return the mode that applies now, and when it ends."""
    if 0 < mode_until <= now:
        return AUTOMATIC, 0
    return mode, mode_until


def count_consecutive(
    failure_count: int,
    last_failure_at: int,
    successes: int,
    success_age: int,
    failures: int,
    duration: int,
    failure_threshold: int,
    now: int,
) -> tuple[int, int, int]:
    """Return the number of failures in a row, the time of the last one, and 1 if they open the breaker.

    A success resets the count only if it is newer than the last failure that the store knows.
    """
    if successes > 0 and (success_age <= 0 or now - success_age > last_failure_at):
        failure_count = 0
    if failures == 0:
        return failure_count, last_failure_at, 0
    failure_count += failures
    if failure_count >= failure_threshold or duration > 0:
        return failure_count, now, 1
    return failure_count, now, 0


def slide_window(
    window_start: int,
    calls: int,
    failed: int,
    slowed: int,
    calls_before: int,
    failed_before: int,
    slowed_before: int,
    window: int,
    now: int,
) -> tuple[int, int, int, int, int, int, int]:
    """Move the window to ``now``: return the start of its current half, and the counts of both halves."""
    elapsed = now - window_start
    if elapsed >= 2 * window or elapsed < 0:
        return now, 0, 0, 0, 0, 0, 0
    if elapsed >= window:
        return window_start + window, 0, 0, 0, calls, failed, slowed
    return window_start, calls, failed, slowed, calls_before, failed_before, slowed_before


def compare_rates(
    calls: int, failed: int, slowed: int, minimum_calls: int, failure_permille: int, slow_permille: int
) -> int:
    """Return 1 if the rate of failed or of slow calls opens the breaker. The three counts are in thousandths."""
    if calls < minimum_calls * 1000:
        return 0
    if failure_permille > 0 and failed * 1000 >= failure_permille * calls:
        return 1
    if slow_permille > 0 and slowed * 1000 >= slow_permille * calls:
        return 1
    return 0


def change(state: int, current_generation: int, now: int) -> tuple[int, int, int]:
    """Change to ``state``: return it, its generation, and when it began."""
    return state, max(current_generation + 1, now), now


def trip(
    open_interval: int, duration: int, recovery_timeout: int, backoff_permille: int, max_interval: int, now: int
) -> tuple[int, int]:
    """Return the interval between probes, and when the first probe may run.

    The interval grows from opening to opening. A ``duration``, which a failure asks for, is used once in its place.
    """
    if duration > 0:
        return open_interval, now + duration
    if open_interval == 0:
        return recovery_timeout, now + recovery_timeout
    open_interval = max(recovery_timeout, min(max_interval, (open_interval * backoff_permille + 999) // 1000))
    return open_interval, now + open_interval


def admit(
    op: int,
    state: int,
    changed_at: int,
    retry_at: int,
    mode: int,
    mode_until: int,
    failures: int,
    random_permille: int,
    capacity_at: int,
    own_end: int,
    recovery_timeout: int,
    slow_start: int,
    now: int,
) -> tuple[int, int]:
    """Return whether the call is allowed, and how long to wait. Only ``ASK`` can be denied."""
    wait = 0
    if state == OPEN and changed_at <= now < retry_at:
        wait = retry_at - now
    if mode == FORCED_OPEN:
        if mode_until > 0:
            wait = max(wait, mode_until - now)
        else:
            wait = max(wait, recovery_timeout)
        if op == ASK:
            return 0, wait
        return 1, wait
    if mode == FORCED_CLOSED or mode == DISABLED:
        return 1, 0
    if op == ASK:
        if state == CLOSED:
            allowed, wait = start_slowly(now - changed_at, slow_start, random_permille)
            return allowed, wait
        if wait > 0:
            return 0, wait
        if own_end == 0 and capacity_at > now:
            return 0, min(capacity_at - now, recovery_timeout)
        return 1, 0
    if op == REPORT and state != CLOSED and failures > 0 and wait == 0:
        wait = max(1, min(capacity_at - now, recovery_timeout))
    return 1, wait


def start_slowly(closed_for: int, slow_start: int, random_permille: int) -> tuple[int, int]:
    """Return whether a closed breaker allows a call, and how much longer every call has to ask.

    For ``slow_start`` after it closed, the chance of a permit rises from a tenth to one.
    """
    if closed_for < 0 or closed_for >= slow_start:
        return 1, 0
    if random_permille < max(100, closed_for * 1000 // slow_start):
        return 1, slow_start - closed_for
    return 0, min(slow_start - closed_for, slow_start // 10 + 1)


def expiry(retry_at: int, mode: int, mode_until: int, record_ttl: int, now: int) -> int:
    """Return when the record is no longer needed. An override without an end is kept."""
    if mode != AUTOMATIC and mode_until == 0:
        return FOREVER
    return max(now, retry_at, mode_until) + record_ttl
