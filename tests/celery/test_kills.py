"""What is killed in the middle: a pool's process, a worker. Acknowledged late, nothing is lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from tests.celery.conftest import Fleet
from tests.servers import eventually

Gather = Callable[..., list[Any]]


def test_a_child_that_is_killed_in_an_outage_loses_nothing(fleet: Fleet, gather: Gather) -> None:
    worker = fleet.worker("-c", "2")
    fleet.outage()
    orders = [fleet.module.charge_lasting.delay(n) for n in range(20)]
    eventually(lambda: fleet.module.charge_lasting.resilience.breaker.state == "open")
    for child in psutil.Process(worker.popen.pid).children():
        os.kill(child.pid, signal.SIGKILL)
    worker.wait_for("exited with 'signal 9 (SIGKILL)'")
    fleet.recovery()
    assert sorted(gather(orders)) == list(range(20))


@pytest.mark.parametrize(("any_fleet", "most_lost"), [("valkey", 1), ("rabbitmq", 0)], indirect=["any_fleet"])
def test_a_worker_that_is_killed_in_an_outage_loses_nothing(any_fleet: Fleet, most_lost: int) -> None:
    """But what Redis had handed to it and Celery has not noted yet: at most one message."""
    fleet = any_fleet
    worker = fleet.worker("-c", "2")
    fleet.outage()
    orders = [fleet.module.charge_lasting.delay(n) for n in range(20)]
    eventually(lambda: fleet.module.charge_lasting.resilience.breaker.state == "open")
    worker.kill()
    worker.popen.wait()
    if "FLEET_BROKER" not in fleet.environ:
        fleet.redeliver()
    fleet.recovery()
    fleet.worker("-c", "2")
    eventually(lambda: sum(order.state == "SUCCESS" for order in orders) >= 20 - most_lost, timeout=40)


def test_waits_longer_than_the_visibility_timeout_run_everything_once(fleet: Fleet, gather: Gather) -> None:
    """With ``visibility_timeout=5`` an opening of 30 s is waited in parts, each as long as the broker holds it."""
    for _ in range(2):
        fleet.worker("-c", "2", FLEET_VISIBILITY="5")
    fleet.trip("wait_long")
    orders = [fleet.module.wait_long.delay(n) for n in range(30)]
    assert sorted(gather(orders, timeout=60)) == list(range(30))
    assert fleet.world.hvals("runs") == ["1"] * 30
