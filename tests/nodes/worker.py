"""The worker of these tests, whatever kind of node it is."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from pytest_celery import CeleryWorkerContainer

from tests.nodes import tasks


class Worker(CeleryWorkerContainer):
    """A Celery worker with our tasks, whose breakers live where its results do."""

    @classmethod
    def command(cls, *args: str, **kwargs: Any) -> list[str]:
        options = ["--concurrency=2", "--task-events", "--without-gossip", "--without-mingle"]
        command: list[str] = super().command(*options, *args)
        return command

    @classmethod
    def tasks_modules(cls) -> set[ModuleType]:
        return {*super().tasks_modules(), tasks}

    @classmethod
    def initial_env(cls, celery_worker_cluster_config: dict[str, Any], initial: Any = None) -> dict[str, str]:
        environ = super().initial_env(celery_worker_cluster_config, initial)
        return {**environ, "RATELIMIT_BACKEND": environ["CELERY_RESULT_BACKEND"]}
