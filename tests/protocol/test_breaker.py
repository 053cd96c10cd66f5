"""The named tuples that guards and the breaker policy exchange are in the policy's order."""

from __future__ import annotations

from typing import Any

import pytest

from ratelimit_core import CircuitBreakerConfig, CircuitBreakerError
from ratelimit_core._util.clock import SECOND
from ratelimit_core.policies import BREAKER, RECORD
from ratelimit_core.policies.circuit_breaker import (
    AUTOMATIC,
    CLOSED,
    DISABLED,
    FORCED_CLOSED,
    FORCED_OPEN,
    HALF_OPEN,
    OPEN,
    PEEK,
    SHADOW,
)
from ratelimit_core.protocol.breaker import (
    BreakerEvent,
    BreakerPolicyConfig,
    BreakerVerdict,
    error_details,
    error_of,
    policy_config,
    status,
)

# The policy's parameters, by the names that they are about to have.
EVENT = {
    "seen": "generation",
    "good": "successes",
    "age": "success_age",
    "bad": "failures",
    "slow": "slow_calls",
    "span": "duration",
    "dice": "random_permille",
    "to": "new_mode",
}
CONFIG = {
    "slots": "spare_probes",
    "recovery": "recovery_timeout",
    "multiplier": "backoff_permille",
    "max_delay": "max_interval",
    "reset": "reset_timeout",
    "keep": "record_ttl",
    "failure_rate": "failure_permille",
    "slow_rate": "slow_permille",
    "ramp": "slow_start",
}
OF_RECORD = {
    "failures": "failure_count",
    "last_failure": "last_failure_at",
    "delay": "open_interval",
    "passed": "probe_successes",
    "settings": "last_fingerprint",
    "current_generation": "generation",  # the event's is the caller's
}


def renamed(names: tuple[str, ...], words: dict[str, str]) -> tuple[str, ...]:
    return tuple(words.get(name, name) for name in names)


def test_an_event_is_in_the_order_of_the_policys_signature() -> None:
    assert BreakerEvent._fields == renamed(BREAKER.event, EVENT)


def test_a_configuration_is_in_the_order_of_the_policys_signature() -> None:
    assert BreakerPolicyConfig._fields == renamed(BREAKER.config, CONFIG)


def test_a_verdict_is_in_the_order_of_what_the_policy_returns() -> None:
    fields = BreakerVerdict._fields
    assert fields[:RECORD] == ("allowed", "wait", "previous_state", "probes", "expires")
    assert fields[RECORD : RECORD + len(BREAKER.record)] == renamed(BREAKER.record, OF_RECORD)
    assert fields[RECORD + len(BREAKER.record) :] == ("drop", "add", "ends")
    assert len(fields) == BREAKER.answers


def verdict(**fields: int) -> BreakerVerdict:
    return BreakerVerdict._make([0] * len(BreakerVerdict._fields))._replace(**fields)


def test_the_record_of_a_verdict_is_what_the_policy_takes() -> None:
    config = policy_config(CircuitBreakerConfig("payments"))
    now, leases, options = SECOND, (0, 0, 0), dict(zip(BREAKER.config, config, strict=True))
    first = BreakerVerdict._make(BREAKER.decide(*BREAKER.blank, *BreakerEvent(PEEK), now, *leases, **options))
    assert first.record == BREAKER.blank
    assert (first.allowed, first.state, first.expires) == (1, CLOSED, 0)


def test_the_settings_are_converted_to_whole_numbers() -> None:
    config = policy_config(
        CircuitBreakerConfig(
            "payments",
            failure_threshold=3,
            half_open_max_calls=4,
            recovery_timeout=1.5,
            exponential_backoff_multiplier=1.25,
            failure_rate=0.5,
            slow_call_rate=0.25,
            slow_call_duration=2,
            window=30,
            slow_start=10,
            shadow=True,
        )
    )
    assert (config.failure_threshold, config.spare_probes, config.shadow) == (3, 3, 1)
    assert (config.recovery_timeout, config.window, config.slow_start) == (1_500_000, 30 * SECOND, 10 * SECOND)
    assert (config.backoff_permille, config.failure_permille, config.slow_permille) == (1250, 500, 250)


def test_a_window_is_kept_only_for_rates() -> None:
    assert policy_config(CircuitBreakerConfig("payments", window=30)).window == 0


@pytest.mark.parametrize("option", ["reset_timeout", "recovery_timeout", "exponential_backoff_max", "probe_timeout"])
def test_a_record_outlives_what_it_is_about(option: str) -> None:
    days: dict[str, Any] = {option: 3 * 86400, "exponential_backoff_multiplier": 1}
    assert policy_config(CircuitBreakerConfig("payments")).record_ttl == 86400 * SECOND
    assert policy_config(CircuitBreakerConfig("payments", **days)).record_ttl >= 3 * 86400 * SECOND


def test_a_fingerprint_tells_settings_apart_that_the_fleet_shares() -> None:
    one = policy_config(CircuitBreakerConfig("payments"))
    assert one.fingerprint == 3_894_715_499, "stored by other versions"
    assert policy_config(CircuitBreakerConfig("mail", probe_timeout=7, cache_ttl=7)).fingerprint == one.fingerprint
    assert policy_config(CircuitBreakerConfig("payments", slow_start=1)).fingerprint != one.fingerprint
    assert policy_config(CircuitBreakerConfig("payments", reset_timeout=1)).fingerprint != one.fingerprint
    assert policy_config(CircuitBreakerConfig("payments"), compared=False) == one._replace(fingerprint=0)


# How a verdict is read


@pytest.mark.parametrize("state", [CLOSED, OPEN, HALF_OPEN])
def test_an_override_comes_before_the_breakers_own_state(state: int) -> None:
    assert [verdict(state=state, mode=mode).effective_state for mode in (AUTOMATIC, SHADOW)] == [state, state]
    assert verdict(state=state, mode=FORCED_OPEN).effective_state == OPEN
    assert [verdict(state=state, mode=mode).effective_state for mode in (FORCED_CLOSED, DISABLED)] == [CLOSED, CLOSED]


def test_an_override_comes_before_the_shadow_of_the_configuration() -> None:
    assert verdict().in_shadow_mode(True)
    assert not verdict().in_shadow_mode(False)
    assert verdict(mode=SHADOW).in_shadow_mode(False)
    assert not verdict(mode=FORCED_OPEN).in_shadow_mode(True)


def test_every_permit_of_a_half_open_breaker_is_a_probe_but_in_shadow_mode() -> None:
    assert verdict(state=HALF_OPEN).is_probe(shadow=False)
    assert not verdict(state=HALF_OPEN).is_probe(shadow=True)
    assert verdict(state=HALF_OPEN, add=1).is_probe(shadow=True)
    assert not verdict(state=CLOSED).is_probe(shadow=False)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"state": CLOSED}, None),
        ({"state": HALF_OPEN, "retry_at": 5}, None),
        ({"state": OPEN, "retry_at": 5}, 5),
        ({"state": OPEN, "retry_at": 5, "mode": FORCED_CLOSED}, None),
        ({"state": CLOSED, "mode": FORCED_OPEN}, None),
        ({"state": CLOSED, "mode": FORCED_OPEN, "mode_until": 7}, 7),
        ({"state": OPEN, "retry_at": 5, "mode": FORCED_OPEN, "mode_until": 3}, 5),
        ({"state": OPEN, "retry_at": 5, "mode": FORCED_OPEN, "mode_until": 7}, 7),
        ({"state": OPEN, "retry_at": 5, "mode": FORCED_OPEN}, None),
    ],
)
def test_when_it_may_be_probed(fields: dict[str, int], expected: float | None) -> None:
    in_us = {name: value * SECOND if name in ("retry_at", "mode_until") else value for name, value in fields.items()}
    assert verdict(**in_us).next_attempt_time == expected


def test_a_failure_may_have_said_for_how_long_it_opens() -> None:
    assert verdict(state=OPEN, changed_at=2 * SECOND, retry_at=9 * SECOND, open_interval=SECOND).open_duration == 7
    assert verdict(state=CLOSED, changed_at=2 * SECOND, open_interval=SECOND).open_duration == 1


def test_an_error_says_what_is_known() -> None:
    assert error_details(None) == {}
    error = error_of("payments", verdict(state=OPEN, failure_count=5, retry_at=9 * SECOND), 3 * SECOND)
    assert isinstance(error, CircuitBreakerError)
    assert (error.state, error.retry_after, error.failure_count, error.next_attempt_time) == ("open", 3, 5, 9)
    assert error_details(verdict(state=CLOSED))["state"] == "slow_start", "a closed breaker rejects for nothing else"


def test_a_status_leaves_out_what_a_process_does_not_know() -> None:
    unknown = status("payments", verdict(probes=2), None, {})
    assert (unknown["shadow"], unknown["failure_threshold"], unknown["half_open_calls"]) == (None, None, 2)
    assert status("payments", verdict(mode=SHADOW), None, {})["shadow"] is True
    assert status("payments", verdict(), CircuitBreakerConfig("payments", shadow=True), {})["shadow"] is True
