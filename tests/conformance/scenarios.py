"""What may happen to a policy, as Hypothesis strategies: configurations, events, lease ids, and time.

Spans are small multiples of one unit, and so is what passes between two events: boundaries are hit exactly.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

from hypothesis import strategies as st

from ratelimit_core._util.clock import LONGEST
from ratelimit_core.backends import Call
from ratelimit_core.policies import Policy
from ratelimit_core.policies.circuit_breaker import ASK, FORCE, PEEK, REPORT
from ratelimit_core.protocol.breaker import MODES

from .reference import Key, Reference

Config = dict[str, int]

OPERATIONS = {
    "breaker": 3,
    "concurrency": 4,
    "counter": 2,
    "fixed_window": 3,
    "place": 5,
    "sliding_window": 5,
    "sliding_window_counter": 3,
    "token_bucket": 5,
}
COSTS = {"a": 1, "b": 1, "c": 2, "d": 3}
"""The cost of each lease id, which always comes with the same cost. It is also the number of a place's holder."""

CURRENT, STALE, UNKNOWN = -1, -2, -3
"""Stand for the breaker's generation when the event is sent, for one that is not it, and for none."""


class Step(NamedTuple):
    elapsed: int
    event: tuple[int, ...]
    lease_id: str

    def call(self, policy: Policy, key: Key, config: Config, reference: Reference) -> Call:
        event = self.event
        if policy.name == "breaker":
            generation = (reference.state(policy, key).record or (0, 0))[1]
            seen = {CURRENT: generation, STALE: max(0, generation - 1), UNKNOWN: 0}
            event = (event[0], seen[event[1]], *event[2:])
        return Call(policy, key, event, tuple(config[name] for name in policy.config), self.lease_id)


def configs(policy: Policy, unit: int) -> st.SearchStrategy[Config]:
    span = st.integers(1, 8).map(unit.__mul__)
    few = st.integers(1, 4)
    values = dict.fromkeys(policy.config, span) | {
        "limit": few,
        "burst": few,
        "failure_threshold": few,
        "success_threshold": few,
        "minimum_calls": few,
        "spare_probes": st.sampled_from([0, 2]),
        "backoff_permille": st.sampled_from([1000, 1500, 2000, 100_000]),
        "max_interval": span | st.just(0),
        "reset_timeout": span | st.just(0),
        "window": st.just(0) | span,
        "failure_permille": st.sampled_from([0, 1, 500, 1000]),
        "slow_permille": st.sampled_from([0, 500, 1000]),
        "slow_start": st.just(0) | span,
        "shadow": st.sampled_from([0] * 7 + [1]),
        "fingerprint": st.sampled_from([0, 1, 2]),
    }
    return st.fixed_dictionaries({name: values[name] for name in policy.config})


def events(policy: Policy, config: Config, lease_id: str, unit: int) -> list[tuple[int, ...]]:
    if policy.name == "breaker":
        testimony = [
            # successes, success_age, failures, slow_calls, duration
            (0, 0, 0, 0, 0),
            (1, 0, 0, 0, 0),
            (2, unit, 0, 0, 0),
            (1, 5 * unit, 0, 1, 0),
            (0, 0, 1, 0, 0),
            (0, 0, 1, 1, 0),
            (1, unit, 2, 1, 0),
            (0, 0, 1, 0, 5 * unit),
        ]
        seen = [CURRENT, CURRENT, CURRENT, STALE, UNKNOWN]
        asked = [
            (op, which, *said, dice, 0)
            for op in (ASK, ASK, REPORT, REPORT, PEEK)
            for which in seen
            for said in testimony
            for dice in (0, 100, 500)
        ]
        forced = [(FORCE, CURRENT, 0, 0, 0, 0, span, 0, mode) for mode in MODES for span in (0, 3 * unit)][1:]
        orders = [*forced, *[(FORCE, CURRENT, *(0,) * 7)] * 8]
        return [*asked, *orders * 16]  # or else examples have hardly any
    most = config.get("limit", config.get("burst", 1))
    cost = min(most, COSTS[lease_id])
    each = {
        "op": range(OPERATIONS[policy.name]),
        "cost": [cost],
        "spare_leases": [most - cost],
        "not_before": [0, 0, unit, 5 * unit],
        "max_wait": [0, 3 * unit, 20 * unit],
        "period": [unit, 5 * unit],
        "caller": [COSTS[lease_id]],
        "margin": [0, unit, 3 * unit, 10 * unit],
    }
    return list(itertools.product(*(each[name] for name in policy.event)))


def elapsed(config: Config, unit: int) -> list[int]:
    """Nothing, a little, the lengths of what is configured, back, and far."""
    spans = [value for value in config.values() if value % unit == 0 and 0 < value <= 8 * unit]
    little = [0, 0, 0, unit, unit, 2 * unit, 5 * unit, 9 * unit, *spans]
    far = [-unit, -3 * unit, -20 * unit, 50 * unit, LONGEST // unit * unit, -(LONGEST // unit * unit)]
    return little * (len(far) // 2) + far


def steps(policy: Policy, config: Config, times: list[int], unit: int) -> st.SearchStrategy[Step]:
    asked = [(event, lease_id) for lease_id in COSTS for event in events(policy, config, lease_id, unit)]
    return st.builds(lambda passed, what: Step(passed, *what), st.sampled_from(times), st.sampled_from(asked))


@st.composite
def scenarios(draw: st.DrawFn, policy: Policy, unit: int) -> tuple[Config, list[Step]]:
    config = draw(configs(policy, unit))
    step = steps(policy, config, elapsed(config, unit), unit)
    return config, draw(st.lists(step, min_size=1, max_size=30))


def plain_config(policy: Policy, unit: int) -> Config:
    """One that makes things happen soon, where policies are mixed."""
    values = dict.fromkeys(policy.config, 4 * unit)
    values |= {"limit": 3, "burst": 3, "failure_threshold": 2, "success_threshold": 1, "spare_probes": 0}
    values |= {"backoff_permille": 2000, "window": 0, "minimum_calls": 1, "failure_permille": 0, "slow_permille": 0}
    values |= {"slow_start": 0, "shadow": 0}
    return {name: values[name] for name in policy.config}
