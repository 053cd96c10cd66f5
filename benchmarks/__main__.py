"""Compare the costs with other libraries and with the least possible cost.

Run ``make bench``, or ``python -m benchmarks --only closed_breaker``. Each case runs in a separate process with
separate servers. The results are printed, and written to ``benchmarks/results/`` as JSON and as pictures.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from . import plots, report
from .cases import CASES, PEERS
from .measure import FULL, QUICK

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
PLACE = re.compile(r"(<!-- figures -->\n).*(<!-- end of figures -->)", re.DOTALL)
"""The part of the page that ``--page`` writes."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds: under two minutes")
    parser.add_argument(
        "--only",
        choices=CASES,
        action="append",
        metavar="CASE",
        help=f"run only this case; may be repeated. Cases: {', '.join(CASES)}",
    )
    parser.add_argument("--results", type=Path, metavar="FILE", help="the file for the figures")
    parser.add_argument("--show", type=Path, metavar="FILE", help="measure nothing, and show the figures in FILE")
    parser.add_argument("--page", action="store_true", help=f"put the tables into docs/{PAGE.name}")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a figure misses its target")
    parser.add_argument("--one-case", type=Path, metavar="FILE", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one_case:
        logging.disable(logging.CRITICAL)  # no logs of breakers that open and of stores that are unavailable
        pace = QUICK if arguments.quick else FULL
        found = import_module(f".cases.{arguments.only[0]}", __package__).run(pace)
        arguments.one_case.write_text(json.dumps(asdict(found)))
        return 0
    console = Console(width=150 if not sys.stdout.isatty() else None)
    failed: list[str] = []
    if arguments.show:
        path = arguments.show
        reports, about = report.read(path)
    else:
        path = arguments.results or RESULTS / ("quick.json" if arguments.quick or arguments.only else "full.json")
        reports, about = _measure(arguments.only or CASES, failed, console, quick=arguments.quick)
        report.save(path, reports, about)
    report.show(console, list(reports.values()))
    pictures = plots.draw(list(reports.values()), path)
    console.print(f"{about['seconds']} s; all figures: {', '.join(map(str, [path, *pictures]))}", highlight=False)
    if arguments.page:
        _write_page(list(reports.values()), about, pictures)
    if failed:
        console.print(f"failed: {', '.join(failed)}", highlight=False)
    short = [row for each in reports.values() for row in each.rows if not row.reached]
    return int(bool(failed) or (arguments.strict and bool(short)))


def _measure(
    cases: Sequence[str], failed: list[str], console: Console, *, quick: bool
) -> tuple[dict[str, report.Report], dict[str, Any]]:
    began = time.monotonic()
    reports = {}
    for name in cases:
        started = time.monotonic()
        try:
            reports[name] = _in_a_process(name, quick=quick)
        except subprocess.CalledProcessError:  # the process has printed the error
            failed.append(name)
        console.print(f"{name}: {time.monotonic() - started:.0f} s", highlight=False)
    about = {
        "quick": quick,
        "seconds": round(time.monotonic() - began),
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: version(name) for name in PEERS},
    }
    return reports, about


def _in_a_process(name: str, *, quick: bool) -> report.Report:
    """Run a case in its own process, so that imports, settings and state of other cases do not affect it."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "report.json"
        options = ["--only", name, "--one-case", str(path), *(["--quick"] if quick else [])]
        subprocess.run([sys.executable, "-m", "benchmarks", *options], check=True)
        return report.load(json.loads(path.read_text()))


def _write_page(reports: Sequence[report.Report], about: dict[str, Any], pictures: Sequence[Path]) -> None:
    for picture, name in zip(pictures, ("costs.svg", "growth.svg"), strict=False):
        shutil.copy(picture, PAGE.parent / "images" / name)
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    measured = f"Measured on Python {about['python']}, {about['machine']}, with {versions}."
    text = f"{measured}\n\n{report.markdown(reports)}\n"
    PAGE.write_text(PLACE.sub(lambda place: f"{place[1]}{text}{place[2]}", PAGE.read_text()))


if __name__ == "__main__":
    sys.exit(main())
