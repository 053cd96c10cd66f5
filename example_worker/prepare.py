"""Create the database and the only user of the site: ``python -m example_worker.prepare``."""

import os
import secrets
from pathlib import Path
from typing import Any

USER = "demo"


def site_environ(directory: str) -> dict[str, str]:
    """Return environment variables for the site and the workers. The database is a file in ``directory``."""
    return {
        "DJANGO_SETTINGS_MODULE": "example_worker.settings",
        "SITE_DATABASE": str(Path(directory, "site.sqlite3")),
        "SITE_SECRET_KEY": secrets.token_urlsafe(32),
        "SITE_PASSWORD": secrets.token_urlsafe(9),
    }


def main() -> None:
    import django
    from django.contrib.auth import get_user_model
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)
    accounts: Any = get_user_model().objects
    accounts.create_superuser(USER, password=os.environ["SITE_PASSWORD"])


if __name__ == "__main__":
    main()
