"""The broker is killed and started again in the middle of an outage, while tasks wait in it and in the workers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ratelimit_core.config.sources import add_source
from resilient_tasks import settings
from tests.celery.conftest import Fleet, on_broker
from tests.celery.test_outage import probes
from tests.servers import Process, eventually, rabbitmq_node, valkey_that_persists

from .table import Row

BROKERS = {"valkey": valkey_that_persists, "rabbitmq": rabbitmq_node, "quorum": rabbitmq_node}
NAMES = {"valkey": "Valkey with AOF", "rabbitmq": "RabbitMQ", "quorum": "RabbitMQ with quorum queues"}
TASKS, WORKERS, CHILDREN = 40, 2, 2


class Killable(NamedTuple):
    fleet: Fleet
    broker: Process
    start: Callable[[], Process]
    kind: str

    def restart(self) -> float:
        """Kill the broker, and start it again; how many seconds it was away."""
        began = time.monotonic()
        self.broker.kill()
        self.broker.popen.wait()
        self.start()
        if self.kind == "valkey":
            self.fleet.redeliver()
        return time.monotonic() - began

    def empty(self) -> bool:
        """Whether no message is left, in a queue or with a worker; where that can be told."""
        if self.kind != "valkey":
            return False
        with self.fleet.app.connection_for_write() as connection:
            client = connection.default_channel.client
            return bool(client.llen("celery") + client.llen("settling") + client.hlen("unacked") == 0)


@pytest.fixture
def killable(request: pytest.FixtureRequest, fleet_module: Any, tmp_path: Path) -> Iterator[Killable]:
    """A fleet whose broker persists; that broker; and how to start it again."""
    add_source(settings._from_app)
    with BROKERS[request.param](tmp_path) as (url, start):
        broker = start()
        with on_broker(fleet_module, FLEET_BROKER=url, FLEET_QUEUES=request.param) as fleet:
            yield Killable(fleet, broker, start, request.param)


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("killable", "task"),
    [
        pytest.param("valkey", "charge_lasting", id="valkey-defer"),
        pytest.param("valkey", "settle", id="valkey-pause", marks=pytest.mark.whole),
        pytest.param("rabbitmq", "charge_lasting", id="rabbitmq-defer", marks=pytest.mark.whole),
        pytest.param("rabbitmq", "settle", id="rabbitmq-pause", marks=pytest.mark.whole),
        pytest.param("quorum", "charge_lasting", id="quorum-defer", marks=pytest.mark.whole),
        pytest.param("quorum", "settle", id="quorum-pause", marks=pytest.mark.whole),
    ],
    indirect=["killable"],
)
def test_a_broker_that_is_killed_in_an_outage_loses_nothing(
    killable: Killable, task: str, saw: Callable[[Row], None]
) -> None:
    """But what Redis has handed out: at most one message for each worker.

    And RabbitMQ 3.10 forgets a message that it kept back, and confirmed, if its time comes while the node is down and
    it is the first that ever was kept back there. So another one goes first.
    """
    fleet, world = killable.fleet, killable.fleet.world
    for _ in range(WORKERS):
        fleet.worker("-c", str(CHILDREN), "-Q", "celery,settling")
    assert fleet.module.plain.apply_async((1,), countdown=1).get(timeout=20) == 1
    protected = getattr(fleet.module, task)
    breaker = protected.resilience.breaker
    fleet.outage()
    orders = [protected.delay(n) for n in range(TASKS)]
    eventually(lambda: probes(breaker) >= 2)
    away = killable.restart()
    fleet.worker("-c", str(CHILDREN), "-Q", "celery,settling")  # losing Redis, Celery sometimes ends
    asked = probes(breaker)
    eventually(lambda: probes(breaker) >= asked + 2, timeout=40)  # the fleet is at it again, and still in vain
    calls, children = fleet.calls, (WORKERS + 1) * CHILDREN
    # Those that open it, those that run then, one more for each process that does not know yet, and the probes.
    at_most = breaker.config.failure_threshold + children + children + probes(breaker)
    fleet.recovery()
    recovered = time.monotonic()
    most_lost = WORKERS if killable.kind == "valkey" else 0

    def drained() -> bool:
        done = world.hlen("runs")
        return bool(done == TASKS or (done >= TASKS - most_lost and killable.empty()))

    eventually(drained, timeout=60)
    took = time.monotonic() - recovered
    assert breaker.config.failure_threshold + 2 <= calls <= at_most
    lost = [order for n, order in enumerate(orders) if not world.hexists("runs", n)]
    assert len(lost) <= most_lost
    # A task's message may be delivered again after its run: then that, and no other, runs once more.
    eventually(lambda: all(order.state == "SUCCESS" for order in orders if order not in lost))
    twice = {order.id for n, order in enumerate(orders) if int(world.hget("runs", n) or 0) > 1}
    assert twice <= world.smembers("redelivered")
    saw(
        Row(
            part="The broker",
            fault=f"{NAMES[killable.kind]}, `on_open={'defer' if task == 'charge_lasting' else 'pause'!r}`",
            injected=f"SIGKILL in an outage of the upstream, back after {away:.1f} s",
            upstream_calls=f"{calls} of {at_most}",
            lost=len(lost),
            recovery=took,
        )
    )
