"""Django is configured here as for its own tests, and so are the site and the workers of other parts of the suite."""

from __future__ import annotations

from tests.celery.conftest import fleet
from tests.django.conftest import configured, requests
from tests.django.operators.conftest import control, project, server, site

__all__ = ["configured", "control", "fleet", "project", "requests", "server", "site"]
