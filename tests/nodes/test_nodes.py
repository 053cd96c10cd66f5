"""Tests on pytest-celery's ``celery_setup``: the same whether its nodes are processes or containers."""

from __future__ import annotations

import re
from typing import Any

from pytest_celery import CeleryTestSetup

from tests.flower import ask, flower, waiting
from tests.nodes import tasks
from tests.servers import eventually, redeliver


def test_nodes_can_be_told_apart_killed_and_started_again(celery_setup: CeleryTestSetup) -> None:
    assert celery_setup.ready(ping=True)
    worker = celery_setup.worker
    (answer,) = celery_setup.app.control.broadcast("ping", reply=True, limit=1, timeout=20)
    assert list(answer) == [worker.hostname()]
    worker.kill()
    assert worker.container.status == "exited"
    worker.restart()
    assert celery_setup.ready(ping=True)
    assert worker.logs().count("ready.") == 2


def test_an_outage_is_waited_out_by_the_same_tasks(celery_setup: CeleryTestSetup, world: Any) -> None:
    worker = celery_setup.worker
    world.set("down", 1)
    orders = [tasks.deliver.delay() for _ in range(6)]
    for order in orders:
        worker.wait_for_log(f"[{order.id}] retry: Retry in")
    worker.assert_log_exists("CircuitBreakerError('courier' open, retry in ")
    world.delete("down")
    for order in orders:
        result = order.get(timeout=60)
        worker.wait_for_log(f"[{order.id}] succeeded")
        assert result["id"] == order.id
        assert result["deliveries"] == worker.logs().count(f"[{order.id}] received") >= 2
        assert worker.logs().count(f"[{order.id}] succeeded") == 1


def test_a_worker_that_is_killed_loses_nothing(celery_setup: CeleryTestSetup, world: Any) -> None:
    worker = celery_setup.worker
    world.set("slow", 1)
    orders = [tasks.deliver.delay() for _ in range(4)]
    for order in orders:
        worker.wait_for_log(f"[{order.id}] received")
    eventually(lambda: world.llen("calls") == 2)  # as many as there are processes in its pool
    worker.kill("SIGKILL")
    world.delete("slow")
    redeliver(celery_setup.app)
    worker.restart()
    assert [order.get(timeout=60)["id"] for order in orders] == [order.id for order in orders]
    assert world.llen("calls") == 2 + 4


def test_a_worker_restarted_while_a_breaker_is_open_calls_nothing_before_the_probe_is_due(
    celery_setup: CeleryTestSetup, world: Any
) -> None:
    worker = celery_setup.worker
    world.set("down", 1)
    orders = [tasks.ship.delay()]
    worker.wait_for_log("breaker 'ferry' opened")
    world.delete("down")
    worker.restart(force=True)  # by SIGTERM
    orders += [tasks.ship.delay() for _ in range(3)]
    for order in orders:
        order.get(timeout=60)
    first, *later = [float(moment) for moment in world.lrange("calls", 0, -1)]
    assert min(later) >= first + tasks.FERRY


def test_flower_says_what_a_task_waits_for(celery_setup: CeleryTestSetup, world: Any) -> None:
    with flower("--broker", celery_setup.broker.config()["host_url"]) as url:
        eventually(lambda: ask(url, "workers?status=true").get(celery_setup.worker.hostname()))  # it hears of events
        world.set("down", 1)
        order = tasks.fly.delay()
        seen = waiting(url, order.id)
        assert seen["state"] in ("RETRY", "RECEIVED")
        assert re.fullmatch(r"CircuitBreakerError\('airline' open, retry in \d+ s\)", seen["exception"])
        assert order.state == "RETRY"
