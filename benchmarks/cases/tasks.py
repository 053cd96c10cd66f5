"""Tasks that do nothing, on a real worker: the CPU time of the worker's processes for each task."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from .. import report
from ..measure import MICRO, Pace, Samples, Spread
from ..stage import valkey

TITLE = "A task that does nothing, on a prefork worker"
PLAIN = "@app.task"
TASKS = {
    PLAIN: ("plain", 0.0),
    "@breaker_task, closed": ("guarded", 0.05),
    "@rate_limited_task, 2 rates": ("limited", 0.4),
    "@breaker_task, 2 rates, concurrency": ("guarded_and_limited", 0.4),
}
"""For each row: the name of the task in the app, and the target for the added CPU time in ms."""
OPTIONS = "-c 1 --without-gossip --without-mingle --without-heartbeat"


def run(pace: Pace) -> report.Report:
    from example_worker.processes import Processes

    rounds, size = (4, 200) if pace.quick else (40, 400)
    with valkey() as server:
        environ = {"BENCH_STORE": server.url.removesuffix("/0")}
        os.environ.update(environ)
        from .. import tasks_app as bench  # reads the environment

        with Processes(environ, os.devnull) as workers:
            worker = workers.start("celery", *f"-A benchmarks.tasks_app worker -n bench@%h {OPTIONS}".split())
            bench.finish.delay()
            child = int(bench.world.brpop("finished", timeout=60)[1])
            measured: dict[str, list[tuple[float, float]]] = {name: [] for name in TASKS}
            for number in range(-1, rounds):
                for name in TASKS if number % 2 else reversed(TASKS):  # alternate the direction
                    cpu, wall = _on_cpu(worker.pid, child), time.perf_counter()
                    _batch(bench, getattr(bench, TASKS[name][0]), size)
                    cpu, wall = _on_cpu(worker.pid, child) - cpu, time.perf_counter() - wall
                    if number >= 0:  # the first round warms up
                        measured[name].append((cpu / size * MICRO, wall / size * MICRO))
    samples = {
        name: Samples(cpu=[cpu for cpu, _ in batches], wall=[wall for _, wall in batches])
        for name, batches in measured.items()
    }
    found = [
        report.Figures(
            name,
            "floor" if name == PLAIN else "ours",
            cpu=Spread.of(mine.cpu),
            wall=Spread.of(mine.wall),
            added=None if name == PLAIN else mine.added_to(samples[PLAIN]),
        )
        for name, mine in samples.items()
    ]
    rows = [
        report.Row(
            f"{each.name}: CPU added to a task",
            "ms",
            ours=each.added.median / 1000,
            target=TASKS[each.name][1],
            floor=report.Best(PLAIN, found[0].cpu.median / 1000),
        )
        for each in found
        if each.added
    ]
    return report.Report(rows, {TITLE: found})


def _batch(bench: Any, task: Any, size: int) -> None:
    """Have the worker run ``task`` ``size`` times, and wait for the end."""
    for _ in range(size):
        task.delay()
    bench.finish.delay()
    if bench.world.brpop("finished", timeout=120) is None:
        raise TimeoutError(f"the worker did not finish {size} runs of {task.name} within 120 s")


def _on_cpu(*pids: int) -> float:
    """Return the CPU seconds of all threads of these processes, which Linux counts in nanoseconds."""
    stats = [path.read_text() for pid in pids for path in Path(f"/proc/{pid}/task").glob("*/schedstat")]
    return sum(int(stat.split()[0]) for stat in stats) / 1e9
