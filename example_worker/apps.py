"""The Django app."""

from django.apps import AppConfig


class ExampleConfig(AppConfig):
    name = "example_worker"
    verbose_name = "Shop"

    def ready(self) -> None:
        """Have the site's tasks go where the Celery app says."""
        from example_worker import celery_app  # noqa: F401
