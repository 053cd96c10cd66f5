"""The site under uvicorn, as a process: ``python -m tests.django.server PORT``. Prints the session of its one user."""

from __future__ import annotations

import os
import sys
from typing import Any

import django
import uvicorn
from django.core.management import call_command


def main(port: int) -> None:
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.django.settings"
    django.setup()
    from django.contrib.auth import SESSION_KEY, get_user_model
    from django.test import Client

    call_command("migrate", verbosity=0)
    accounts: Any = get_user_model().objects
    user = accounts.create_user("alice")
    browser = Client()
    browser.force_login(user)
    print(f"session {browser.session.session_key} user {browser.session[SESSION_KEY]}", flush=True)

    from tests.django.asgi import application

    uvicorn.run(application, port=port, log_level="info")


if __name__ == "__main__":
    main(int(sys.argv[1]))
