"""Every order of the steps of two workers, with each fault: nothing lost or above a limit, no task waits for ever.

What the model leaves out: keys that share a number, and more than two tasks of a key.
"""

from __future__ import annotations

import pytest

from ratelimit_core._util.steps import Steps
from ratelimit_core.protocol import place

from . import model
from .model import Admitted, Counterexample, explore

RATE, CONCURRENCY = "R", "C"


@pytest.fixture(autouse=True)
def every_turn_is_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns spread questions, and decide nothing; each would be another state."""
    monkeypatch.setattr(place, "TURN_MARGIN", 0)


@pytest.mark.parametrize("atomic_move", [True, False], ids=["one-command", "copied-then-acknowledged"])
@pytest.mark.parametrize("fault", ["none", "slow", "kill", "disconnect", "flush", "back"])
def test_two_workers_two_keys_three_tasks(fault: str, atomic_move: bool) -> None:
    faults = () if fault == "none" else (fault,)
    assert explore([RATE, RATE, CONCURRENCY], faults=faults, atomic_move=atomic_move) > 300


@pytest.mark.parametrize("faults", [(), ("slow", "slow"), ("kill",), ("flush",), ("back",)])
def test_two_tasks_of_a_concurrency(faults: tuple[str, ...]) -> None:
    assert explore([CONCURRENCY, CONCURRENCY], faults=faults) > 200


@pytest.mark.parametrize("faults", [("kill", "slow"), ("flush", "slow"), ("disconnect", "flush")])
def test_two_faults(faults: tuple[str, ...]) -> None:
    assert explore([RATE, RATE], faults=faults) > 1000


@pytest.mark.parametrize("keys", [[RATE] * 3, [CONCURRENCY] * 3, [RATE, CONCURRENCY, RATE]])
def test_one_worker_keeps_the_order_of_a_key(keys: list[str]) -> None:
    assert explore(keys, workers=1, room=2) > 30


# What is left out is missed: the model sees each of these mistakes


def test_a_task_that_is_acknowledged_before_it_is_copied_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    def acknowledge_only(world: model.World, i: int, j: int, *, acknowledged: bool) -> None:
        del world.workers[i].held[j]

    monkeypatch.setattr(model, "move", acknowledge_only)
    with pytest.raises(Counterexample, match="lost"):
        explore([RATE, RATE], workers=1)


def test_an_admission_that_is_asked_for_one_task_and_used_for_two_is_above_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def free(key: str, lease_id: str) -> Steps[Admitted]:
        yield "apply", [place.look(model.QUEUE, "none")]
        return Admitted(key, lease_id)

    monkeypatch.setattr(model, "acquire", free)
    with pytest.raises(Counterexample, match="over the rate"):
        explore([RATE, RATE])


def test_a_key_that_is_lost_and_not_entered_again_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "enter_again", lambda world, i, key: world.workers[i].keys.lost.clear())
    monkeypatch.setattr(model, "sweep", lambda world, number: None)
    with pytest.raises(Counterexample, match="can't be reached"):
        explore([RATE, RATE], faults=("kill",))
