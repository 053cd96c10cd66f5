"""``install(app)``: make every task of an app derive from :class:`ResilientTask`."""

from __future__ import annotations

import weakref
from typing import Any, cast

from celery import Celery, Task
from celery.app.registry import TaskRegistry

from ratelimit_core.errors import ConfigurationError

from .table import installed, route
from .task import ResilientTask


def install(app: Celery) -> None:
    """Protect the tasks of ``app`` by the rules of ``app.conf.resilience``, including tasks that are defined later.

    Call this function where the app is created, in every process that uses the app. Tasks named ``celery.*`` and tasks
    that match no rule are not protected. A second call does nothing.

    Raises:
        ConfigurationError: a worker already runs, or a rule is wrong. A wrong rule may also be found later, but before
            a worker starts. At the latest it is found when the app is finalized.
    """
    registry = app.__dict__["_tasks"]  # app.tasks would finalize the app
    if isinstance(registry, ProtectedRegistry):
        return
    if any("__trace__" in vars(task) and task.__trace__ is not None for task in registry.values()):
        raise ConfigurationError(
            "install(app) came too late: a worker already runs, without protection for its tasks. Call install(app) "
            "where the app is created, right after Celery(...)"
        )
    protected = ProtectedRegistry(app)
    installed.add(app)
    setattr(app, "_tasks", protected)  # noqa: B010 - the attribute that Celery(tasks=...) sets
    for name, task in registry.items():
        protected[name] = task


class ProtectedRegistry(TaskRegistry):
    """The tasks of an app. Each task derives from :class:`ResilientTask`."""

    def __init__(self, app: Celery) -> None:
        super().__init__()
        self._app = weakref.ref(app)

    def __setitem__(self, name: str, task: Any) -> None:
        app = self._app()
        if app is not None and isinstance(task, Task) and not name.startswith("celery."):
            _derive(task)
            if task.__bound__:
                route(app, type(task))
        super().__setitem__(name, task)


def _derive(task: Any) -> None:
    cls = type(task)
    if not issubclass(cls, ResilientTask):
        task.__class__ = with_protection(cls)


def with_protection(base: type[Task[..., Any]]) -> type[Task[..., Any]]:
    """Return a class that derives from ``ResilientTask`` and ``base``. Its ``Request`` derives from theirs."""
    if issubclass(base, ResilientTask):
        return base
    if base is Task:
        return ResilientTask
    attributes: dict[str, Any] = {"abstract": True, "__module__": base.__module__, "__doc__": base.__doc__}
    if base.Request != Task.Request:
        from celery.utils.imports import symbol_by_name

        ours, theirs = symbol_by_name(ResilientTask.Request), symbol_by_name(base.Request)
        attributes["Request"] = type(f"Resilient{theirs.__name__}", (ours, theirs), {})
    bases: tuple[type, ...] = (ResilientTask, base)
    made: Any = type(str(base.__name__), bases, attributes)
    return cast("type[Task[..., Any]]", made)
