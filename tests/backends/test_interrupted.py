"""A signal's handler may raise in the middle of a write to memory, and a fork may happen there: nothing comes apart."""

from __future__ import annotations

import linecache
import sys
from collections.abc import Callable
from functools import partial
from types import FrameType, ModuleType
from typing import Any

import pytest

from ratelimit_core._util.clock import SECOND
from ratelimit_core.backends import MemoryBackend, leases, records
from ratelimit_core.policies import ALLOWED, CONCURRENCY, SLIDING_WINDOW, Policy
from ratelimit_core.policies.concurrency import HIT, REFUND, RENEW
from ratelimit_core.protocol.call import Call
from ratelimit_core.testing import ManualClock

LIMIT = 12
CONFIGS: dict[Policy, dict[str, int]] = {
    CONCURRENCY: {"limit": LIMIT, "timeout": 60 * SECOND},
    SLIDING_WINDOW: {"limit": LIMIT, "period": 60 * SECOND, "spacing": 5 * SECOND},
}


class Interrupt(BaseException):
    """What Ctrl-C or a soft time limit raises, wherever the program is."""


def interrupted_at(step: int, act: Callable[[], object], *modules: ModuleType) -> bool:
    """Run ``act`` and raise before the line of these modules that is ``step``-th to run; whether there were so many.

    Not at the lines of ``with``: Python runs no handler between what a block does and letting go of its lock.
    """
    left = step
    files = {module.__file__ for module in modules or (records, leases)}

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left
        file = frame.f_code.co_filename
        if file not in files:
            return None
        if event == "line" and not linecache.getline(file, frame.f_lineno).lstrip().startswith("with "):
            left -= 1
            if not left:
                raise Interrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        act()
    except Interrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def call(policy: Policy, op: int, lease_id: str, cost: int = 1) -> Call:
    values = dict.fromkeys(policy.event, 0) | {"op": op, "cost": cost, "spare_leases": LIMIT - cost}
    return Call(
        policy, ("name", ""), tuple(values[name] for name in policy.event), tuple(CONFIGS[policy].values()), lease_id
    )


def free(store: MemoryBackend, policy: Policy, by: str = "later") -> int:
    """How many are admitted from here on."""
    return sum(store.apply([call(policy, HIT, f"{by} {i}")])[0][ALLOWED] for i in range(LIMIT + 1))


@pytest.mark.parametrize("quick", [True, False], ids=["hit", "apply"])
@pytest.mark.parametrize("policy", CONFIGS, ids=lambda policy: policy.name)
def test_an_interrupted_hit_counts_or_does_not_and_the_others_do(policy: Policy, quick: bool) -> None:
    step, seen = 1, set()
    while True:
        clock = ManualClock()
        store = MemoryBackend(clock=clock)
        for i in range(4):
            store.apply([call(policy, HIT, f"ended {i}")])
        clock.advance(40)
        for i in range(4):
            store.apply([call(policy, HIT, f"held {i}")])
        clock.advance(30)  # the first four are pruned by the next
        hit = store.hit(call(policy, HIT, ""))
        assert hit
        asked = partial(hit, "name", "own") if quick else partial(store.apply, [call(policy, HIT, "own")])
        if not interrupted_at(step, asked):
            break
        for i in (0, 2):
            store.apply([call(policy, REFUND, f"held {i}")])
        seen.add(free(store, policy))
        clock.advance(20)
        store.apply([call(policy, REFUND, "own")])
        clock.advance(45)
        assert free(store, policy, by="last") == LIMIT
        step += 1
    assert step > 20
    assert seen == {LIMIT - 2, LIMIT - 3}


@pytest.mark.parametrize("op", [RENEW, HIT])
def test_an_interrupted_renewal_leaves_its_holder_the_place(op: int) -> None:
    step = 1
    while True:
        clock = ManualClock()
        store = MemoryBackend(clock=clock)
        for lease_id in "abc":
            store.apply([call(CONCURRENCY, HIT, lease_id, cost=2)])
        clock.advance(1)
        again = call(CONCURRENCY, op, "b", cost=2)
        done = not interrupted_at(step, partial(store.apply, [again]))
        clock.advance(1)
        assert free(store, CONCURRENCY) == LIMIT - 6
        store.apply([call(CONCURRENCY, REFUND, "b", cost=2)])
        assert free(store, CONCURRENCY, by="last") == 2
        if done:
            break
        step += 1
    assert step > 20


def test_an_interrupted_return_of_a_place_gives_it_back_or_does_not() -> None:
    step, seen = 1, set()
    while True:
        store = MemoryBackend(clock=ManualClock())
        for lease_id in "abc":
            store.apply([call(CONCURRENCY, HIT, lease_id, cost=2)])
        back = call(CONCURRENCY, REFUND, "b", cost=2)
        done = not interrupted_at(step, partial(store.apply, [back]))
        seen.add(free(store, CONCURRENCY))
        if done:
            break
        step += 1
    assert seen == {LIMIT - 6, LIMIT - 5, LIMIT - 4}


def test_what_an_interruption_left_torn_is_not_swept_out_as_if_it_had_ended() -> None:
    step = 1
    while True:
        store = MemoryBackend(clock=ManualClock())
        store.apply([call(CONCURRENCY, HIT, "a")])
        done = not interrupted_at(step, partial(store.apply, [call(CONCURRENCY, RENEW, "a")]))
        for i in range(16):
            store.apply([call(CONCURRENCY, HIT, "others")._replace(key=(f"other {i}", ""))])
        assert free(store, CONCURRENCY) == LIMIT - 1
        if done:
            break
        step += 1


@pytest.mark.parametrize("policy", CONFIGS, ids=lambda policy: policy.name)
def test_interrupted_batches_are_decided_up_to_there(policy: Policy) -> None:
    step, seen = 1, set()
    batches = [[call(policy, HIT, f"own {i}"), call(policy, HIT, "one")._replace(key=(f"{i}", ""))] for i in range(3)]
    while True:
        store = MemoryBackend(clock=ManualClock())
        if not interrupted_at(step, partial(store.apply_each, batches)):
            break
        left = free(store, policy)
        listed = [("name", "")] + [(str(i), "") for i in range(LIMIT - left)]
        assert set(store.keys(policy)) >= set(listed[1:-1]), "at most one batch is decided by half"
        seen.add(left)
        step += 1
    assert step > 40
    assert seen == {LIMIT, LIMIT - 1, LIMIT - 2, LIMIT - 3}
