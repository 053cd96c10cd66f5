"""``python -m resilient_tasks``: commands that need no running app."""

from __future__ import annotations

import json as json_module
import os
import sys
from dataclasses import asdict

import click

from ratelimit_core._util.text import printable

from .ops.check import ERROR, WARNING
from .ops.check import check as look


@click.group()
def main() -> None:
    """Check an app that uses circuit breakers and limits."""


@main.command()
@click.option(
    "-A", "--app", help="The Celery app, as for `celery -A`. Without an app, only the store and Django are checked."
)
@click.option("--json", is_flag=True, help="Print JSON, for programs.")
@click.option(
    "--fail-on",
    type=click.Choice([ERROR, WARNING]),
    default=ERROR,
    show_default=True,
    help="Exit with 1 if there is a finding of this level or a more serious one.",
)
def check(app: str | None, json: bool, fail_on: str) -> None:
    """Report what is missing or dangerous in a configuration, and what to write instead.

    Exits with 1 if a finding is at least as serious as --fail-on, and with 2 if the command line is wrong.
    """
    sys.path.insert(0, os.getcwd())  # as `celery` does
    found = look(app)
    if json:
        click.echo(json_module.dumps([asdict(finding) for finding in found], indent=2))
    else:
        for finding in found:
            click.echo(printable(f"{finding.level}: {finding.what}"))
            for label, text in (("why", finding.why), ("instead", finding.instead)):
                if text:
                    click.echo(printable(f"    {label}: {text}"))
    if any(finding.level in (ERROR, fail_on) for finding in found):
        raise SystemExit(1)


if __name__ == "__main__":
    main(prog_name="python -m resilient_tasks")
