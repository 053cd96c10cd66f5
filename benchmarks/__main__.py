"""Side by side with peers and with the floor: ``make bench``, or ``python -m benchmarks --only closed_breaker``.

Every case runs in a process of its own, on servers of its own. What is printed is what was measured; it is also written
to ``benchmarks/results/``.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from . import report
from .cases import CASES, PEERS
from .measure import FULL, QUICK

RESULTS = Path(__file__).parent / "results"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds: under two minutes")
    parser.add_argument("--only", choices=CASES, action="append", metavar="CASE", help=f"of {', '.join(CASES)}")
    parser.add_argument("--results", type=Path, metavar="FILE", help="where to write the figures")
    parser.add_argument("--strict", action="store_true", help="fail if anything falls short of its target")
    parser.add_argument("--one-case", metavar="FILE", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    pace = QUICK if arguments.quick else FULL
    if arguments.one_case:
        logging.disable(logging.CRITICAL)  # of breakers that open, and of stores that are away
        found = import_module(f".cases.{arguments.only[0]}", __package__).run(pace)
        Path(arguments.one_case).write_text(json.dumps(report.dump(found)))
        return 0
    console = Console(width=132 if not sys.stdout.isatty() else None)
    began = time.monotonic()
    reports, failed = {}, []
    for name in arguments.only or CASES:
        console.print(f"{name} ...", highlight=False)
        try:
            reports[name] = _in_a_process(name, quick=arguments.quick)
        except subprocess.CalledProcessError:  # it has said why
            failed.append(name)
    report.show(console, list(reports.values()))
    path = arguments.results or RESULTS / ("quick.json" if arguments.quick or arguments.only else "full.json")
    report.save(path, reports, _about(time.monotonic() - began, quick=arguments.quick))
    console.print(f"{time.monotonic() - began:.0f} s; all figures are in {path}", highlight=False)
    if failed:
        console.print(f"failed: {', '.join(failed)}", highlight=False)
    short = [row for each in reports.values() for row in each.rows if not row.reached]
    return int(bool(failed) or (arguments.strict and bool(short)))


def _in_a_process(name: str, *, quick: bool) -> report.Report:
    """So that no case sees what another has imported, configured or left behind."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "report.json"
        options = ["--only", name, "--one-case", str(path), *(["--quick"] if quick else [])]
        subprocess.run([sys.executable, "-m", "benchmarks", *options], check=True)
        return report.load(json.loads(path.read_text()))


def _about(took: float, *, quick: bool) -> dict[str, Any]:
    return {
        "quick": quick,
        "seconds": round(took),
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: version(name) for name in PEERS},
    }


if __name__ == "__main__":
    sys.exit(main())
