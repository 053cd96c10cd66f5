"""``manage.py ratelimit_status``: the breakers of the fleet, and the limits in use."""

from __future__ import annotations

import json
import time
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from ...._util.text import printable, span
from ....circuit_breaker import circuit_breaker_registry
from ....errors import ResilienceError
from ....fleet.usage import limits_in_use
from ....store.configured import get_backend
from ...console.url_names import mode_of

SHOWN = 100
"""The maximum number of limits that are printed. ``--json`` prints all."""


class Command(BaseCommand):
    """A command that prints the breakers and the limits in use, as two tables or as JSON."""

    help = "Show every breaker that the store lists and the limits in use, for the whole fleet."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options."""
        parser.add_argument(
            "--json", action="store_true", dest="as_json", help="print everything as JSON, times in epoch seconds"
        )

    def handle(self, *args: Any, as_json: bool, **options: Any) -> None:
        """Print the tables. Raise CommandError if the store does not answer."""
        try:
            backend = get_backend()
            fleet = circuit_breaker_registry.get_fleet_status()
            limits = limits_in_use(backend)
        except ResilienceError as error:
            raise CommandError(
                f"the store does not answer: {error}. Check that the store runs and that RATELIMIT_BACKEND is right"
            ) from error
        if as_json:
            self.stdout.write(_as_json(fleet, limits))
            return
        if not backend.shared:
            self.stderr.write("The backend is the memory of this process, so other processes' breakers are missing.")
        self._print_breakers(fleet)
        self.stdout.write("")
        self._print_limits(limits)

    def _print_breakers(self, fleet: dict[str, dict[str, Any]]) -> None:
        rows = [_row(status) for _, status in sorted(fleet.items())]
        self._print(("BREAKER", "STATE", "MODE", "FAILURES", "NEXT PROBE", "BY", "REASON"), rows, "no breakers")

    def _print_limits(self, limits: list[tuple[str, str, str]]) -> None:
        rows = [tuple(map(printable, limit)) for limit in limits[:SHOWN]]
        self._print(("LIMIT ON", "OF", "ALGORITHM"), rows, "no limits in use")
        if len(limits) > SHOWN:
            self.stdout.write(f"... and {len(limits) - SHOWN} more; --json prints all")

    def _print(self, head: tuple[str, ...], rows: list[tuple[str, ...]], nothing: str) -> None:
        if not rows:
            self.stdout.write(nothing)
            return
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        for row in (head, *rows):
            self.stdout.write("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _row(status: dict[str, Any]) -> tuple[str, ...]:
    now = time.time()
    threshold, at, until = (status[name] for name in ("failure_threshold", "next_attempt_time", "mode_until"))
    return (
        printable(status["name"]),
        status["state"],
        mode_of(status) + (f" for {span(until - now)}" if until else ""),
        str(status["failure_count"]) + (f" of {threshold}" if threshold else ""),
        f"in {span(at - now)}" if at else "",
        printable(status["author"]),
        printable(status["reason"]),
    )


def _as_json(fleet: dict[str, dict[str, Any]], limits: list[tuple[str, str, str]]) -> str:
    found = [{"key": key, "limit": limit, "algorithm": algorithm} for key, limit, algorithm in limits]
    return json.dumps({"breakers": fleet, "limits": found}, indent=2)
