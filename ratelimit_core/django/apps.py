"""The Django app."""

from __future__ import annotations

from django.apps import AppConfig


class RatelimitConfig(AppConfig):
    """What Django knows the app by."""

    name = "ratelimit_core.django"
    label = "ratelimit_core"
    verbose_name = "Resilience"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the system checks, and have Django's signals sent."""
        from . import checks, signals  # noqa: F401 - checks register themselves

        signals.connect()
