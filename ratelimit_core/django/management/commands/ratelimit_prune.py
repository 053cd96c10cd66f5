"""``manage.py ratelimit_prune``: delete expired records from the tables of the database backend."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from ....backends.database import DatabaseBackend
from ....errors import ResilienceError


class Command(BaseCommand):
    """A command that deletes expired records in batches and skips locked ones. Run it regularly."""

    help = "Delete expired records, leases and journals from the tables of the database backend."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add ``--database`` and ``--batch``."""
        parser.add_argument("--database", help="alias of the database (default: the setting RATELIMIT_DATABASE)")
        parser.add_argument("--batch", type=int, default=1000, help="records to delete per transaction (default: 1000)")

    def handle(self, *args: Any, **options: Any) -> None:
        """Prune until no expired record is left."""
        batch: int = options["batch"]
        if batch < 1:
            raise CommandError(f"--batch={batch} should be 1 or more")
        records = leases = 0
        try:
            backend = DatabaseBackend(options["database"])
            while True:
                gone = backend.prune(batch)
                records, leases = records + gone[0], leases + gone[1]
                if gone[0] < batch:
                    break
        except ResilienceError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(f"{backend.alias}: deleted {records} records with {leases} leases")
