"""One pass of the demo: orders arrive, the payment service goes down and comes back."""

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
    from celery import Task  # generic in its stubs only

SAMPLE_EVERY = 0.5  # seconds


@dataclass(frozen=True, slots=True)
class Plan:
    """What happens in each pass; times are seconds since its beginning."""

    orders_per_second: float = 15
    outage_begins: float = 4
    outage_ends: float = 16
    gives_up: float = 45


@dataclass(frozen=True, slots=True)
class Sample:
    """A moment of a pass."""

    name: str
    elapsed: float
    breaker: str
    orders: int
    enqueued: int
    waiting: int
    stats: Stats

    @property
    def done(self) -> int:
        """Orders that the service has charged."""
        return int(self.stats["orders"])

    @property
    def lost(self) -> int:
        """Orders that were not charged, and that no message in the broker stands for any more."""
        return max(0, self.enqueued - self.done - self.waiting)

    @property
    def outage_calls(self) -> int:
        return sum(outage["calls"] for outage in self.stats["outages"])

    def in_outage(self, second: int) -> bool:
        """Whether the service was down for most of that second."""
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
    """Send ``orders`` through ``task`` and an outage, in which there is a ``visitor``.

    Returns the last sample and the ids of the tasks.
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
            if idle == 2 or elapsed >= plan.gives_up:  # twice: a message on its way to a worker is nowhere
                return sample, ids
        time.sleep(0.01)


def breaker_state() -> str:
    """The state that the fleet shares, as one would ask for it from anywhere."""
    if os.environ.get("RESILIENCE_ENABLED") == "0":
        return "switched off"
    status = CircuitBreaker(BREAKER).get_status()
    if status["state"] == "open":
        return f"open, probe in {max(0.0, status['next_attempt_time'] - time.time()):.1f} s"
    return str(status["state"])
