"""What is done to a fleet, and what is looked at when it is over."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

import psutil

from example_worker.visitor import Visitor
from ratelimit_core import CircuitBreaker
from tests.servers import eventually
from tests.soak import vitals
from tests.soak.faults import plan
from tests.soak.stage import Stage

SENT_PER_SECOND = 4
SAMPLE_EVERY = 2.0
WARM = 0.3, 0.5
"""What a process holds in this part of the time is compared with what it holds at the end."""
PATIENCE = 120.0
"""Seconds in which all has to be well once nothing is broken any more, beside what the limit takes for what waits."""
KEEPS_UP = 0.5
"""What has piled up has to be done at that much of the limit."""
GROWN = vitals.Vitals(memory=15.0, descriptors=5, threads=2)
"""By so much at most: a kilobyte leaked by each task would be more within an hour."""


class Check(NamedTuple):
    what: str
    counted: float
    at_most: float

    @property
    def kept(self) -> bool:
        return self.counted <= self.at_most


class Soak:
    """So many seconds of faults, and what came of them."""

    def __init__(self, stage: Stage, seconds: float, seed: int) -> None:
        os.environ.update(stage.environ)
        from tests.soak import app  # reads the environment

        self.app = app
        self.seconds = seconds
        self.faults = plan(seed, seconds)
        self.injected = Counter(fault.kind for fault in self.faults)
        self.sent = 0
        self.drained_in = float("inf")
        self.visitor = Visitor(stage.site_url)
        self._stage = stage
        self._breakers = [CircuitBreaker(name, **app.BREAKER) for name in ("payments", "quotes")]
        self._spared = stage.spared
        self._samples: list[tuple[vitals.Vitals, ...]] = []

    def run(self) -> None:
        """Break and heal, send and visit; then heal, and wait until all is done."""
        self.visitor.start()
        began = time.monotonic()
        to_begin, to_end = self.faults[::-1], list[tuple[float, Callable[[], object]]]()
        while (elapsed := time.monotonic() - began) < self.seconds:
            for end in [end for end in to_end if end[0] <= elapsed]:
                to_end.remove(end)
                end[1]()
            while to_begin and to_begin[-1].at <= elapsed:
                fault = to_begin.pop()
                heal = getattr(self._stage, fault.kind)()
                to_end.append((fault.at + fault.lasts, heal))
            while self.sent < elapsed * SENT_PER_SECOND:
                self._send()
            if elapsed >= len(self._samples) * SAMPLE_EVERY:
                self._sample()
            time.sleep(0.02)
        for _, heal in to_end:
            heal()
        healed = time.monotonic()
        patience = PATIENCE + self.lost / (KEEPS_UP * self.app.RATE)
        with suppress(AssertionError):  # the checks say what is missing
            eventually(self._drained, patience, every=0.1)
            self.drained_in = time.monotonic() - healed
            eventually(lambda: not self._open(), PATIENCE, every=0.5)
            eventually(self._stage.settled, PATIENCE)
        self.visitor.stop()
        for _ in range(5):
            time.sleep(0.5)  # so that what has ended is gone
            self._sample()

    def _send(self) -> None:
        task = (self.app.charge, self.app.settle)[self.sent % 2]
        task.apply_async(task_id=f"order-{self.sent}")
        self.sent += 1

    def _drained(self) -> bool:
        lost = self.lost
        return lost == 0 or (lost <= self._stage.workers_killed and self._stage.messages() == 0)

    @property
    def lost(self) -> int:
        return self.sent - int(self.app.ledger.hlen("runs"))

    def missing(self) -> list[str]:
        """The orders that nobody paid."""
        runs = self.app.ledger.hgetall("runs")
        return [order for order in map("order-{}".format, range(self.sent)) if order not in runs]

    def _open(self) -> list[str]:
        return [breaker.config.name for breaker in self._breakers if breaker.get_status()["state"] != "closed"]

    def _sample(self) -> None:
        self._samples.append(tuple(map(vitals.of, self._spared)))

    def checks(self) -> Iterator[Check]:
        stage, runs, charged = self._stage, self.app.ledger.hgetall("runs"), self._stage.payments.stats()
        twice = {order for order, times in runs.items() if int(times) > 1}
        # What Redis had handed to a worker that was killed just then is lost, if Celery had not noted it yet.
        yield Check("tasks lost: one for each worker killed", self.lost, stage.workers_killed)
        yield Check("messages that are left", stage.messages(), 0)
        again = twice - self.app.ledger.smembers("redelivered")
        yield Check("tasks run twice that the broker had not delivered again", len(again), 0)
        # The store admits no more than the limit in any second; a call arrives a little after it was admitted.
        yield Check("charges in the busiest second", charged["peak_in_any_second"], 1.25 * self.app.RATE)
        yield Check("charges in the busiest ten seconds", _busiest(charged["per_second"], 10), 10.25 * self.app.RATE)
        yield Check("breakers that are not closed", len(self._open()), 0)
        yield Check("workers that were told to go and stay", stage.lingering(), 0)
        mute = [each for each in self.visitor.answers if each.status not in (200, 502) and not each.saved]
        yield Check("answers of the site that say nothing", len(mute), 0)
        yield Check("slowest answer of the site, in seconds", self.slowest, 4.0)
        yield from self._leaks()

    @property
    def slowest(self) -> float:
        return max(answer.took for answer in self.visitor.answers)

    def _leaks(self) -> Iterator[Check]:
        stage = self._stage
        yield Check("keys in the store", stage.store.dbsize(), 20)
        held = [vitals.connections(process, stage.store_port) for process in stage.processes]
        own = vitals.connections(psutil.Process(), stage.store_port)
        there = {int(client["addr"].rpartition(":")[2]) for client in stage.store.client_list()}
        yield Check("connections to the store of one process", max(map(len, held)), 4)
        yield Check("connections to the store of nobody", len(there - own - set().union(*held)), 0)
        first, last = (round(part * self.seconds / SAMPLE_EVERY) for part in WARM)
        for number, name in enumerate(("site", "worker", "pool process")):
            warm = vitals.typical([sample[number] for sample in self._samples[first : last + 1]])
            end = vitals.typical([sample[number] for sample in self._samples[-5:]])
            for what, before, now, more in zip(vitals.Vitals._fields, warm, end, GROWN, strict=True):
                yield Check(f"{what} of the {name}", now, before + more)


def _busiest(per_second: list[int], seconds: int) -> int:
    """How many fall into the busiest ``seconds``."""
    return max(sum(per_second[first : first + seconds]) for first in range(len(per_second)))
