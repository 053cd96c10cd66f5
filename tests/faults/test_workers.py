"""Killed in an outage of the upstream: a process of a worker's pool, and a worker whole. Nothing is lost."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import psutil
import pytest

from tests.celery.conftest import Fleet, any_fleet, app_settings, fleet
from tests.celery.test_outage import probes
from tests.servers import Process, eventually

from .conftest import Saw
from .table import Row

__all__ = ["any_fleet", "app_settings", "fleet"]

TASKS, CHILDREN = 20, 2


def outlive(fleet: Fleet, kill: Callable[[Process], None], most_lost: int) -> tuple[str, int, float]:
    """Kill in an outage: how many calls reached the upstream, of how many; tasks lost; seconds to drain afterwards."""
    worker = fleet.worker("-c", str(CHILDREN))
    protected = fleet.module.charge_lasting
    breaker = protected.resilience.breaker
    fleet.outage()
    orders = [protected.delay(n) for n in range(TASKS)]
    eventually(lambda: breaker.state == "open")
    kill(worker)
    calls = fleet.calls
    # Those that open it, those that run then or are begun anew, and the probes.
    at_most = breaker.config.failure_threshold + 3 * CHILDREN + probes(breaker)
    assert calls <= at_most
    fleet.recovery()
    recovered = time.monotonic()
    eventually(lambda: fleet.world.hlen("runs") >= TASKS - most_lost, timeout=40)
    took = time.monotonic() - recovered
    eventually(lambda: sum(order.state == "SUCCESS" for order in orders) >= TASKS - most_lost)
    return f"{calls} of {at_most}", TASKS - fleet.world.hlen("runs"), took


def test_processes_of_a_pool_that_are_killed_lose_nothing(fleet: Fleet, saw: Saw) -> None:
    def kill(worker: Process) -> None:
        for child in psutil.Process(worker.popen.pid).children():
            os.kill(child.pid, signal.SIGKILL)
        worker.wait_for("exited with 'signal 9 (SIGKILL)'")

    calls, lost, took = outlive(fleet, kill, most_lost=0)
    assert lost == 0
    saw(
        Row(
            "The fleet",
            "All processes of a worker's pool are killed",
            "SIGKILL, as for want of memory",
            upstream_calls=calls,
            lost=lost,
            recovery=took,
        )
    )


@pytest.mark.parametrize(("any_fleet", "most_lost"), [("valkey", 1), ("rabbitmq", 0)], indirect=["any_fleet"])
def test_a_worker_that_is_killed_loses_nothing(any_fleet: Fleet, most_lost: int, saw: Saw) -> None:
    """But what Redis had handed to it and Celery has not noted yet: at most one message."""
    on_rabbitmq = "FLEET_BROKER" in any_fleet.environ

    def kill(worker: Process) -> None:
        worker.kill()
        worker.popen.wait()
        if not on_rabbitmq:
            any_fleet.redeliver()
        any_fleet.worker("-c", str(CHILDREN))

    calls, lost, took = outlive(any_fleet, kill, most_lost)
    assert lost <= most_lost
    saw(
        Row(
            "The fleet",
            f"A worker is killed, on {'RabbitMQ' if on_rabbitmq else 'Valkey'}",
            "SIGKILL of it and its pool; another one takes its place",
            upstream_calls=calls,
            lost=lost,
            recovery=took,
        )
    )
