"""The circuit breaker: closed, open, half-open.

A closed breaker counts *consecutive* failures, in the order in which the store receives them. With a ``window``, the
breaker also computes the rates of failed and of slow calls. It counts calls in the current and in the previous window.
The previous counts are weighted by the part of that window that is within the last ``window``.

Each transition begins a new generation, and outcomes of another generation are dropped. A half-open breaker permits a
few probes. Each probe holds a lease. If a process dies during its probe, the lease ends and another probe can run. An
operator's override takes precedence over the breaker's own state until the override ends.

Times and durations are in µs. Rates and chances are in thousandths.

This module has over 300 lines because it lists the fields of the record and of the configuration one by one. The helper
functions follow in the order in which ``breaker`` calls them.

Source: M. Nygard, "Release It!", ch. 5. The generation is taken from gobreaker, and the window counter from Cloudflare.
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

# Modes: AUTOMATIC without an override, or the mode of the override.
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

    * ``ASK`` asks for a permit. The call may also report ``successes``.
    * ``REPORT`` reports ``successes`` and ``failures``, of which ``slow_calls`` were slow. It releases the caller's
      probe lease and is always allowed. With ``duration``, a failure opens the breaker for exactly that time.
    * ``PEEK`` changes nothing.
    * ``FORCE`` sets the override ``new_mode`` for ``duration``. A ``duration`` of 0 means until the next override.

    Outcomes belong to ``generation``, and ``success_age`` is the age of the newest success. If the caller of ``REPORT``
    does not know the generation, ``generation`` is 0 and ``success_age`` is the time since the call began. Such a
    report counts if the call began in the present generation.

    The modes of an override are:

    * ``FORCED_OPEN`` rejects every call.
    * ``FORCED_CLOSED`` rejects no call and counts outcomes, but never opens the breaker.
    * ``DISABLED`` rejects no call and counts no outcomes.
    * ``SHADOW`` changes the state as usual, but rejects no call. Without an override, ``shadow=1`` does the same.

    ``spare_probes`` is ``half_open_max_calls - 1``. With ``window=0``, no rates are computed. ``random_permille`` is a
    random number below 1000, for ``slow_start``.

    ``fingerprint`` identifies the caller's configuration, or is 0. The record keeps the fingerprint of the last ``ASK``
    from another generation. So processes notice that they configure a breaker differently.

    ``wait`` depends on the operation and the state:

    * While the breaker is open: the time until the next probe may run.
    * In half-open, for a rejected ``ASK`` or a failure of another generation: the time until another probe may run.
    * During slow start, for an allowed ``ASK``: the time for which every call still has to ask.

    If the clock goes back to before the opening, a probe is allowed at once.

    Answers: the state before this call, and the number of probes that were running.
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
    # The first generation is the present time, so that no generation is used twice if the store is flushed.
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
    """Return the mode that an operator sets, and the time at which the mode ends; 0 means never."""
    if duration > 0:
        return new_mode, now + duration
    return new_mode, 0


def expire_override(mode: int, mode_until: int, now: int) -> tuple[int, int]:
    """Return the mode that applies now, and the time at which the mode ends; 0 means never."""
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
    """Return the number of consecutive failures, the time of the last failure, and 1 if the breaker opens.

    A success resets the count only if the success is newer than the last failure that the store knows.
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
    """Return the start and the counts of the window that contains ``now``, and the counts of the previous window."""
    elapsed = now - window_start
    if elapsed >= 2 * window or elapsed < 0:
        return now, 0, 0, 0, 0, 0, 0
    if elapsed >= window:
        return window_start + window, 0, 0, 0, calls, failed, slowed
    return window_start, calls, failed, slowed, calls_before, failed_before, slowed_before


def compare_rates(
    calls: int, failed: int, slowed: int, minimum_calls: int, failure_permille: int, slow_permille: int
) -> int:
    """Return 1 if the rate of failed or of slow calls opens the breaker, otherwise 0.

    The three counts are in thousandths of a call.
    """
    if calls < minimum_calls * 1000:
        return 0
    if failure_permille > 0 and failed * 1000 >= failure_permille * calls:
        return 1
    if slow_permille > 0 and slowed * 1000 >= slow_permille * calls:
        return 1
    return 0


def change(state: int, current_generation: int, now: int) -> tuple[int, int, int]:
    """Return the new ``state``, its generation, and the time at which the state begins."""
    return state, max(current_generation + 1, now), now


def trip(
    open_interval: int, duration: int, recovery_timeout: int, backoff_permille: int, max_interval: int, now: int
) -> tuple[int, int]:
    """Return the interval of the backoff, and the time from which a probe may run.

    The interval grows with each opening. If a failure asks for a ``duration``, this opening lasts for the duration, and
    the interval does not grow.
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
    """Return ``allowed`` and ``wait``. Only ``ASK`` can be rejected."""
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
    """Return ``allowed`` and ``wait`` for an ``ASK`` of a closed breaker.

    During ``slow_start`` after the closing, the chance of a permit rises from a tenth to one.
    """
    if closed_for < 0 or closed_for >= slow_start:
        return 1, 0
    if random_permille < max(100, closed_for * 1000 // slow_start):
        return 1, slow_start - closed_for
    return 0, min(slow_start - closed_for, slow_start // 10 + 1)


def expiry(retry_at: int, mode: int, mode_until: int, record_ttl: int, now: int) -> int:
    """Return the time at which the record is no longer needed. An override without an end is kept for ever."""
    if mode != AUTOMATIC and mode_until == 0:
        return FOREVER
    return max(now, retry_at, mode_until) + record_ttl
