"""Measure how well a fleet keeps a rate, and how well it uses the rate: ``python -m benchmarks.limit``.

1,000 tasks with the limit ``10/s`` arrive at once at two workers. The exit status is 0 if three conditions hold: no
second has more runs than docs/limits.md allows, all tasks together take at most 5 % longer than the ideal time, and no
task is delivered more than twice.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

from rich.console import Console
from rich.table import Table

from benchmarks.outage import CONCURRENCY, PREFETCH, WORKERS, stage
from example_worker.processes import Processes, leave_orderly

RATE = 10


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--log", metavar="FILE", default=os.devnull, help="append the output of the workers to FILE")
    arguments = parser.parse_args()
    leave_orderly()
    with stage("valkey") as environ:
        return run(arguments.tasks, environ, arguments.log)


def run(tasks: int, environ: dict[str, str], log: str) -> int:
    os.environ.update(environ)
    from benchmarks import outage_app as bench  # this import reads the environment

    world = bench.world
    options = f"-c {CONCURRENCY} --prefetch-multiplier {PREFETCH} --without-gossip --without-mingle"
    ideal = (tasks - RATE) / RATE  # the first ten run at once, the others at the rate
    with Processes(environ, log) as workers:
        for number in range(WORKERS):
            workers.start("celery", *f"-A benchmarks.outage_app worker -n bench{number}@%h {options}".split())
        while len(bench.app.control.ping(timeout=0.5) or []) < WORKERS:
            pass
        for order in range(tasks):
            bench.limited.delay(order)
        deadline = time.monotonic() + 2 * ideal + 30
        while world.llen("limited") < tasks and time.monotonic() < deadline:
            time.sleep(0.1)
    spans = [tuple(map(float, span.split())) for span in world.lrange("limited", 0, -1)]
    times = [end for _, end in spans]
    # The store allowed a run between these two times. A run counts for a second if both are in it.
    most = max(sum(start <= asked and ran < start + 1.0 for asked, ran in spans) for start, _ in spans)
    deliveries = [int(number) for number in world.hvals("deliveries")]
    took = max(times) - min(times)
    rows = [
        ("tasks done", len(times), tasks, len(times) == tasks),
        ("most runs in any second", most, RATE, most <= RATE),
        ("seconds from the first run to the last", f"{took:.2f}", f"{ideal:.2f}", took <= 1.05 * ideal),
        ("most deliveries of a task", max(deliveries), 2, max(deliveries) <= 2),
        ("deliveries, all together", sum(deliveries), 2 * tasks, True),
    ]
    shown = Table(title=f"{tasks} tasks under {RATE}/s on {WORKERS} workers of {CONCURRENCY}")
    for column in ("", "counted", "at most, or ideal", ""):
        shown.add_column(column, justify="left" if not column else "right")
    for what, counted, bound, kept in rows:
        shown.add_row(what, str(counted), str(bound), "" if kept else "FAILED")
    Console(width=120 if not sys.stdout.isatty() else None).print(shown)
    return 0 if all(row[3] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
