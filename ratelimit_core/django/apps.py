"""The app configuration of ``ratelimit_core.django``."""

from __future__ import annotations

from django.apps import AppConfig


class RatelimitConfig(AppConfig):
    """The configuration of the Django app."""

    name = "ratelimit_core.django"
    label = "ratelimit_core"
    verbose_name = "Resilience"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the system checks, and connect Django's signals."""
        from . import checks, signals  # noqa: F401 - checks register themselves

        signals.connect()
