"""The same outage on every broker, with tasks that are put off and tasks whose queue is left alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.celery.conftest import Fleet
from tests.servers import eventually

Gather = Callable[..., list[Any]]


@pytest.mark.timeout(180)
@pytest.mark.parametrize("task", ["charge", "settle"], ids=["defer", "pause"])
def test_an_outage_loses_nothing_and_runs_nothing_twice(any_fleet: Fleet, gather: Gather, task: str) -> None:
    fleet = any_fleet
    workers = [fleet.worker("-c", "2", "-Q", "celery,settling") for _ in range(2)]
    protected = getattr(fleet.module, task)
    fleet.outage()
    orders = [protected.delay(n) for n in range(60)]
    eventually(lambda: protected.resilience.breaker.state == "open")
    assert fleet.module.plain.delay(1).get(timeout=20) == 1
    seen = fleet.calls
    eventually(lambda: fleet.calls > seen, timeout=30)  # a probe
    fleet.recovery()
    gather(orders, timeout=60)
    assert fleet.world.hvals("runs") == ["1"] * 60
    lines = [line for worker in workers for line in worker.lines if "received" in line]
    assert all(any(f"[{order.id}] received" in line for line in lines) for order in orders)


def test_a_limit_is_kept_and_waited_for(any_fleet: Fleet, gather: Gather) -> None:
    any_fleet.worker("-c", "2", "-Q", "celery,settling")
    orders = [any_fleet.module.limited.delay(n) for n in range(25)]
    assert sorted(gather(orders)) == list(range(25))
