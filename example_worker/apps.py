"""The app configuration."""

from django.apps import AppConfig


class ExampleConfig(AppConfig):
    name = "example_worker"
    verbose_name = "Shop"

    def ready(self) -> None:
        """Import the Celery app, so that the site sends tasks to its broker."""
        from example_worker import celery_app  # noqa: F401
