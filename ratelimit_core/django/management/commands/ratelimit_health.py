"""``manage.py ratelimit_health``: check the store and the breakers, for probes and cron."""

from __future__ import annotations

import json
import sys
import threading
from argparse import ArgumentTypeError
from contextlib import suppress
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from ...health import circuit_breaker_health

STORE_AWAY = 1
BREAKER_OPEN = 2


class Command(BaseCommand):
    """A command whose exit code says whether the store answers and, if asked to, whether a breaker is open."""

    help = (
        "Print whether the store answers and how many breakers are open. Exit code 0: the store answers; "
        f"{STORE_AWAY}: the store does not answer in time, or an option is wrong; {BREAKER_OPEN}, only with "
        "--fail-on-open: a breaker is open. Do not use this as a container's liveness probe, because a process works "
        "without its store, too."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options."""
        parser.add_argument(
            "--fail-on-open", action="store_true", help=f"exit {BREAKER_OPEN} if a breaker is open, also a forced one"
        )
        parser.add_argument("--timeout", type=_seconds, default=5.0, help="seconds to wait for the store (default: 5)")
        parser.add_argument(
            "--json", action="store_true", dest="as_json", help="print what the health endpoint answers"
        )

    def run_from_argv(self, argv: list[str]) -> None:
        """Exit with 1 for a wrong option, because Django's 2 would mean that a breaker is open."""
        self._called_from_command_line = True
        try:
            self.create_parser(argv[0], argv[1]).parse_args(argv[2:])
        except SystemExit as end:
            sys.exit(1 if end.code else 0)
        super().run_from_argv(argv)

    def handle(self, *args: Any, fail_on_open: bool, timeout: float, as_json: bool, **options: Any) -> None:
        """Print one line. Raise CommandError with the exit code if something is wrong."""
        found = _within(timeout)
        self.stdout.write(json.dumps(found) if as_json else _as_text(found))
        if not found["store"]["up"]:
            raise CommandError(
                f"the store does not answer: {found['store']['error']}. Check that the store runs and that "
                "RATELIMIT_BACKEND is right",
                returncode=STORE_AWAY,
            )
        if fail_on_open and found["failing"]:
            raise CommandError(
                f"{found['failing']} of {found['total']} breakers are open; `manage.py ratelimit_status` names them",
                returncode=BREAKER_OPEN,
            )


def _within(timeout: float) -> dict[str, Any]:
    """Return :func:`circuit_breaker_health`, or an error after ``timeout`` seconds. The thread may still hang then."""
    found: list[dict[str, Any]] = []

    def ask() -> None:
        try:
            found.append(circuit_breaker_health())
        except Exception as error:
            found.append(_away(f"{type(error).__name__}: {error}"))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout)
    return found[0] if found else _away(f"no answer within {timeout:g} s")


def _away(error: str) -> dict[str, Any]:
    store = {"up": False, "backend": "", "error": error}
    return {"total": None, "failing": None, "healthy": False, "store": store}


def _as_text(found: dict[str, Any]) -> str:
    if not found["store"]["up"]:
        return "store: unavailable"
    return f"store: up ({found['store']['backend']}); breakers: {found['total']}, open: {found['failing']}"


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if 0 < float(text) <= 3600:
            return float(text)
    raise ArgumentTypeError(f"{text!r} should be seconds, more than 0 and at most 3600")
