"""A fleet under random faults: ``python -m tests.soak --seconds 3600``.

Two services, a store, two workers and a site are broken and healed all the time, by a plan that a seed decides. Then
everything is healed, and what waits is done. Printed is what was counted beside what it may be at most; the exit status
is 0 if nothing was lost, run twice, let through beyond its limit, or leaked.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from example_worker.processes import die_with_parent, leave_orderly
from tests.soak.soak import Check, Soak
from tests.soak.stage import running


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600.0, help="how long things are broken; an hour")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6), help="decides the faults")
    parser.add_argument(
        "--json", type=Path, default=Path(os.devnull), metavar="FILE", help="write the figures there, too"
    )
    arguments = parser.parse_args()
    leave_orderly()
    die_with_parent(signal.SIGTERM)
    console = Console(width=120 if not sys.stdout.isatty() else None)
    with tempfile.TemporaryDirectory() as directory, running(Path(directory), arguments.seed) as stage:
        soak = Soak(stage, arguments.seconds, arguments.seed)
        console.print(f"seed {arguments.seed}: {_listed(soak)}")
        soak.run()
        checks = list(soak.checks())
        console.print(_table(soak, checks))
        for order in soak.missing():
            console.print(f"{order}:", *stage.said(f"[{order}]")[-4:], sep="\n  ", markup=False)
        counts = {"faults": len(soak.faults), "tasks": soak.sent, "lost": soak.lost}
        figures = counts | {"slowest": soak.slowest, "drained_in": soak.drained_in}
    arguments.json.write_text(json.dumps(figures), "utf-8")
    return 0 if all(check.kept for check in checks) else 1


def _listed(soak: Soak) -> str:
    return ", ".join(f"{times} x {kind.replace('_', ' ')}" for kind, times in sorted(soak.injected.items()))


def _table(soak: Soak, checks: list[Check]) -> Table:
    """What came of it, as a person reads it."""
    shown = Table(
        title=f"{len(soak.faults)} faults in {soak.seconds:.0f} s; {soak.sent} tasks, "
        f"{len(soak.visitor.answers)} visits; all done {soak.drained_in:.1f} s after the last"
    )
    for column in ("", "counted", "at most", ""):
        shown.add_column(column, justify="right" if column else "left")
    for check in checks:
        shown.add_row(check.what, f"{check.counted:.4g}", f"{check.at_most:.4g}", "kept" if check.kept else "FAILED")
    return shown


if __name__ == "__main__":
    sys.exit(main())
