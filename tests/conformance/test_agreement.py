"""One decision, wherever it is made: every store against the reference, and a damaged one found out."""

from __future__ import annotations

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from ratelimit_core.backends import MemoryBackend, MultiBackend
from ratelimit_core.backends.redis.scripts import script
from ratelimit_core.policies import ALLOWED, BREAKER, POLICIES, Policy
from ratelimit_core.policies.circuit_breaker import ASK, FORCE, PEEK, REPORT
from ratelimit_core.protocol.breaker import MODES
from ratelimit_core.testing import ManualClock

from .conftest import NewParticipant
from .participants import Participant, in_lua
from .profiles import examples, is_quick
from .reference import Reference
from .scenarios import OPERATIONS, Config, Step, plain_config, scenarios, steps

KEY = ("name", "qualifier")
FINE = 1


def play(policy: Policy, config: Config, story: list[Step], clock: ManualClock, participant: Participant) -> None:
    """Compare verdict, record and leases at every step."""
    reference = Reference(clock)
    for step in story:
        clock.now += step.elapsed
        call = step.call(policy, KEY, config, reference)
        verdict = reference.apply([call])
        state = reference.state(policy, KEY)
        assert participant.apply([call]) == verdict, f"{participant}: {call} at {clock.now}"
        assert participant.state(policy, KEY) == state, f"{participant}: {call} at {clock.now}"


OPERATIONS_OF_BREAKER = {*((op, 0) for op in (ASK, REPORT, PEEK)), *((FORCE, mode) for mode in MODES)}


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_every_store_decides_alike(policy: Policy, participant: NewParticipant) -> None:
    asked: set[tuple[int, int]] = set()

    @examples(150 if policy is BREAKER else 60)
    @given(scenarios(policy, participant(ManualClock()).finest))
    def agree(scenario: tuple[Config, list[Step]]) -> None:
        clock = ManualClock()
        play(policy, *scenario, clock, participant(clock))
        events = [dict(zip(policy.event, step.event, strict=True)) for step in scenario[1]]
        asked.update((event["op"], event.get("new_mode", 0)) for event in events)

    agree()
    if not is_quick():
        every = OPERATIONS_OF_BREAKER if policy is BREAKER else {(op, 0) for op in range(OPERATIONS[policy.name])}
        assert asked == every, "whatever can be asked was compared"


NAMES = ("p", "t")
"""Where names are spread over several stores, or slots, these are apart."""


@st.composite
def calls_together(draw: st.DrawFn, unit: int) -> list[dict[tuple[str, str], Step]]:
    """In each, some of three records of each policy are asked together."""
    places = st.tuples(st.sampled_from(list(POLICIES)), st.sampled_from(NAMES))

    def step(place: tuple[str, str]) -> st.SearchStrategy[Step]:
        policy = POLICIES[place[0]]
        return steps(policy, plain_config(policy, unit), [0, 0, unit, 3 * unit, 8 * unit], unit)

    def together(chosen: list[tuple[str, str]]) -> st.SearchStrategy[dict[tuple[str, str], Step]]:
        return st.fixed_dictionaries({place: step(place) for place in chosen})

    asked = st.lists(places, unique=True, min_size=1, max_size=4).flatmap(together)
    return draw(st.lists(asked, min_size=1, max_size=20))


def test_calls_asked_together_are_decided_all_or_none_and_what_is_in_use_is_listed(
    participant: NewParticipant,
) -> None:
    unit = participant(ManualClock()).finest
    two = MultiBackend([MemoryBackend(), MemoryBackend()], strategy="round_robin")
    assert {two._primary_index(name) for name in NAMES} == {0, 1}

    @examples(40)
    @given(calls_together(unit))
    def agree(rounds: list[dict[tuple[str, str], Step]]) -> None:
        clock = ManualClock()
        reference = Reference(clock)
        each = participant(clock)
        touched = {place for asked in rounds for place in asked}
        for asked in rounds:
            clock.now += max(step.elapsed for step in asked.values())
            calls = [
                step.call(POLICIES[name], (key, name), plain_config(POLICIES[name], unit), reference)
                for (name, key), step in asked.items()
            ]
            before = [reference.state(POLICIES[name], (key, name)) for name, key in touched]
            verdicts = reference.apply(calls)
            after = [reference.state(POLICIES[name], (key, name)) for name, key in touched]
            assert after == before or all(verdict[ALLOWED] for verdict in verdicts)
            assert each.apply(calls) == verdicts, f"{each}: {calls} at {clock.now}"
            assert [each.state(POLICIES[name], (key, name)) for name, key in touched] == after, f"{each}"
            for name in {name for name, _ in asked}:
                assert each.keys(POLICIES[name]) == reference.keys(POLICIES[name]), f"{each}: {name}"
        for policy in POLICIES.values():
            assert each.keys(policy) == reference.keys(policy), f"{each}: {policy.name}"

    agree()


DAMAGE = [
    ("breaker", "failure_count >= failure_threshold", "failure_count > failure_threshold"),
    ("breaker", "if (state == 1 and (", "if (state == 2 and ("),
    ("breaker", "(own_end == 0 and capacity_at > now)", "(own_end == 0 and capacity_at < now)"),
    ("breaker", "generation == current_generation", "generation <= current_generation"),
    ("breaker", "mode_until <= now", "mode_until < now"),
    ("breaker", "if mode == 1 then", "if mode == 2 then"),
    ("counter", "ends = (now + period)", "ends = (now - period)"),
    ("breaker", "'ZREVRANGE', leases, spare_probes, spare_probes", "'ZREVRANGE', leases, 0, 0"),
    ("concurrency", "kept = (kept - cost)", "kept = (kept + cost)"),
    ("concurrency", "ends = (now + timeout)", "ends = (now - timeout)"),
    ("fixed_window", "(count + cost) > limit", "(count + cost) >= limit"),
    ("fixed_window", "(start - period)", "(start + period)"),
    ("place", "holder ~= caller", "holder == caller"),
    ("place", "((touched_at + margin) - now)", "((taken_at + margin) - now)"),
    ("place", "if wait > 0", "if wait >= 0"),
    ("place", "((turn - turned_at) + now)", "turn"),
    ("place", "math.min(taken_at, now)", "taken_at"),
    ("place", "math.min(touched_at, now)", "touched_at"),
    ("place", "turn = math.max(turn, now)", "turn = now"),
    ("sliding_window", "ending_in_period > limit", "ending_in_period >= limit"),
    ("sliding_window", "'(' .. now_text, '+inf'", "now_text, '+inf'"),
    ("sliding_window_counter", "c0 > room", "c0 >= room"),
    ("sliding_window_counter", "math.min(0, c3)", "math.max(0, c3)"),
    ("token_bucket", "wait > max_wait", "wait >= max_wait"),
    ("token_bucket", "(base + price)", "(base - price)"),
    # what all policies share
    ("sliding_window", "'ZREMRANGEBYSCORE', leases, '-inf', text(now)", "'ZREMRANGEBYSCORE', leases, '-inf', '+inf'"),
    ("sliding_window", "for part = 1, drop do", "for part = 2, drop do"),
    ("sliding_window", "member) == 0 then", "member) == 2 then"),
    ("fixed_window", "start, count = stored_start, stored_count", "start, count = stored_count, stored_start"),
    ("fixed_window", "version == 1", "version == 0"),
]


@pytest.mark.parametrize(("name", "right", "wrong"), DAMAGE)
@pytest.mark.slow
def test_damaged_lua_does_not_agree(name: str, right: str, wrong: str) -> None:
    text, _ = script(frozenset([name]))
    assert right in text

    @settings(examples(5000), phases=[Phase.generate])
    @given(scenarios(POLICIES[name], FINE))
    def agree(scenario: tuple[Config, list[Step]]) -> None:
        clock = ManualClock()
        play(POLICIES[name], *scenario, clock, in_lua(clock, lambda text: text.replace(right, wrong, 1)))

    with pytest.raises(AssertionError, match="the generated Lua"):
        agree()
