"""``manage.py ratelimit_reset``: close breakers, and reset the counters of limits."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Iterable
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from ...._util.suggest import did_you_mean
from ...._util.text import printable
from ....backends.base import Backend
from ....circuit_breaker import circuit_breaker_registry
from ....errors import ResilienceError
from ....fleet.usage import limits_in_use
from ....policies import POLICIES
from ....protocol.names import escape, unescape
from ....store.configured import get_backend
from ...console.actions import act


class Command(BaseCommand):
    """A command that resets the named breakers and limits. If a name is wrong, it resets nothing."""

    help = (
        "Reset breakers and limits in the whole fleet: close breakers, end manual overrides, and forget all counts. "
        "Other processes notice this within a second, or within cache_ttl if that is longer. "
        "`manage.py ratelimit_status` lists the names."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options."""
        parser.add_argument("names", nargs="*", metavar="NAME", help="name of a breaker")
        parser.add_argument("--all-breakers", action="store_true", help="every breaker that the store lists")
        parser.add_argument(
            "--limits", nargs="+", action="extend", default=[], metavar="KEY", help="all limits on this key"
        )
        parser.add_argument("--reason", required=True, help="why; the history keeps the reason, with your user name")
        parser.add_argument(
            "--no-input", action="store_false", dest="interactive", help="do not ask to confirm --all-breakers"
        )

    def handle(
        self,
        *args: Any,
        names: list[str],
        all_breakers: bool,
        limits: list[str],
        reason: str,
        interactive: bool,
        **options: Any,
    ) -> None:
        """Print what was reset. Raise CommandError if an argument is wrong or the store does not answer."""
        if not reason.strip():
            raise CommandError("--reason is empty: write why, for the readers of the history")
        if not (names or all_breakers or limits):
            raise CommandError("nothing to reset: name breakers, or pass --all-breakers or --limits KEY")
        if names and all_breakers:
            raise CommandError(f"--all-breakers includes {names[0]!r}: pass either names or --all-breakers")
        try:
            backend = get_backend()
            known = circuit_breaker_registry.get_fleet_status() if names or all_breakers else {}
            if wrong := [name for name in names if name not in known]:
                raise CommandError(_unknown("breaker", wrong[0], known))
            found = _records(backend, limits)
            breakers = list(known) if all_breakers else names
            if all_breakers and interactive and sys.stdin.isatty() and not _agreed(len(breakers)):
                raise CommandError("not confirmed, so nothing was reset")
            for name in breakers:
                act(name, "reset", author=_author(), reason=reason)
                self.stdout.write(f"reset breaker {printable(name)}")
            for key, limit, algorithm in found:
                backend.delete(POLICIES[algorithm], [(key, limit)])
                self.stdout.write(f"reset limit {printable(limit)} ({algorithm}) on {printable(key)}")
        except ResilienceError as error:
            raise CommandError(
                f"the store does not answer: {error}. Only what is printed above was reset; "
                "try again when the store answers"
            ) from error


def _records(backend: Backend, keys: list[str]) -> list[tuple[str, str, str]]:
    """Return the key, the limit and the algorithm of each limit in use on ``keys``.

    The store lists a long key in its shortened form.
    """
    in_use = limits_in_use(backend) if keys else []
    found = []
    for key in dict.fromkeys(keys):
        listed = {key, unescape(escape(key))}
        records = [(key, limit, algorithm) for name, limit, algorithm in in_use if name in listed]
        if not records:
            raise CommandError(_unknown("limit on", key, [name for name, _, _ in in_use]))
        found += records
    return found


def _unknown(what: str, name: str, known: Iterable[str]) -> str:
    hint = did_you_mean(name, known) or "; `manage.py ratelimit_status` lists the names in use"
    return f"no {what} {name!r} is in use, so nothing was reset{hint}"


def _agreed(number: int) -> bool:
    return input(f"Reset {number} breakers in the whole fleet? [y/N] ").strip().lower() in ("y", "yes")


def _author() -> str:
    """Return the name of the user who runs the command. A user in a container may have no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "manage.py"
