"""One pass of the demo: orders arrive while the payment service goes down and recovers."""

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from example_worker.enqueue import Order
from example_worker.fleet import Fleet
from example_worker.payments import Stats
from example_worker.tasks import BREAKER
from example_worker.visitor import Visitor
from ratelimit_core import CircuitBreaker

if TYPE_CHECKING:
    from celery import Task  # generic only in its stubs

SAMPLE_EVERY = 0.5  # seconds


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan of each pass. Times are in seconds since the beginning of the pass."""

    orders_per_second: float = 15
    outage_begins: float = 4
    outage_ends: float = 16
    gives_up: float = 45


@dataclass(frozen=True, slots=True)
class Sample:
    """The state of a pass at one moment."""

    name: str
    elapsed: float
    breaker: str
    orders: int
    enqueued: int
    waiting: int
    stats: Stats

    @property
    def done(self) -> int:
        """The number of orders that the service has charged."""
        return int(self.stats["orders"])

    @property
    def lost(self) -> int:
        """The number of orders that were not charged and have no message in the broker any more."""
        return max(0, self.enqueued - self.done - self.waiting)

    @property
    def outage_calls(self) -> int:
        return sum(outage["calls"] for outage in self.stats["outages"])

    def in_outage(self, second: int) -> bool:
        """Return whether the service was down in the middle of this second of the pass."""
        outages = self.stats["outages"]
        return any(each["began"] <= second + 0.5 < (each["ended"] or math.inf) for each in outages)


def run_pass(
    name: str,
    task: "Task[[str, str], str]",
    visitor: Visitor,
    orders: Sequence[Order],
    plan: Plan,
    fleet: Fleet,
    show: Callable[[Sample], None],
) -> tuple[Sample, list[str]]:
    """Enqueue ``orders`` for ``task``, with an outage and a ``visitor`` in the outage.

    Returns:
        The last sample, and the ids of the tasks.
    """
    fleet.upstream.reset()
    began = time.monotonic()
    switches = [(plan.outage_begins, "down"), (plan.outage_ends, "up")]
    ids: list[str] = []
    idle, next_sample = 0, 0.0
    while True:
        elapsed = time.monotonic() - began
        if switches and elapsed >= switches[0][0]:
            mode = switches.pop(0)[1]
            if mode == "up":
                visitor.stop()
            fleet.upstream.switch(mode)
            if mode == "down":
                visitor.start()
        for order in orders[len(ids) : int(elapsed * plan.orders_per_second)]:
            ids.append(task.delay(order.id, order.amount).id)
        if elapsed >= next_sample:
            next_sample = elapsed + SAMPLE_EVERY
            sample = Sample(
                name=name,
                elapsed=elapsed,
                breaker=breaker_state() if name == "guarded" else "none",
                orders=len(orders),
                enqueued=len(ids),
                waiting=fleet.waiting(),
                stats=fleet.upstream.stats(),
            )
            show(sample)
            idle = 0 if switches or sample.waiting or len(ids) < len(orders) else idle + 1
            if idle == 2 or elapsed >= plan.gives_up:  # twice, because no count sees a message on its way to a worker
                return sample, ids
        time.sleep(0.01)


def breaker_state() -> str:
    """Return the shared state of the breaker in words, as any process can read it."""
    if os.environ.get("RESILIENCE_ENABLED") == "0":
        return "switched off"
    status = CircuitBreaker(BREAKER).get_status()
    if status["state"] == "open":
        return f"open, probe in {max(0.0, status['next_attempt_time'] - time.time()):.1f} s"
    return str(status["state"])
