"""Protection by configuration: a table of which tasks stand behind what, and no task is touched.

::

    app.conf.resilience = {
        "payments.*": {"breaker": "payments", "rate": "10/s;5000/h", "on_open": "defer"},
        "queue:mail": {"breaker": "smtp", "on_open": "pause"},
    }
    install(app)

A key is a task's name, a pattern as in ``task_routes`` (``*``, ``?``, ``[...]``), a compiled regular expression, or
``queue:`` and the name of a queue, or a pattern of those. The first that matches counts; names go before queues. What
a decorator says of a task goes before the table.
"""

from __future__ import annotations

import inspect
import re
import weakref
from collections.abc import Iterable, Mapping
from fnmatch import translate
from functools import partial
from typing import Any, NamedTuple, cast

from celery import Celery, Task
from celery.app.registry import TaskRegistry

from ratelimit_core.breaker_config import OPTIONS as BREAKER_OPTIONS
from ratelimit_core.errors import ConfigurationError, unknown_option

from .protection import TASK_OPTIONS, Options, Protection, without_self
from .task import ResilientTask

QUEUE = "queue:"


class Rule(NamedTuple):
    """A row of the table."""

    key: str
    pattern: re.Pattern[str]
    of_queue: bool
    options: Mapping[str, Any]

    def protection(self, name: str, task: Any) -> Protection:
        """What this rule puts before ``task``; ``name`` is the breaker's if the rule names none."""
        signature = inspect.signature(task.run)
        if not isinstance(inspect.getattr_static(task, "run"), staticmethod | classmethod):
            signature = without_self(signature)
        try:
            return make_protection(name, signature, self.options, task.time_limit)
        except ConfigurationError as error:
            raise ConfigurationError(f"resilience[{self.key!r}], for the task {task.name}: {error}") from None


class Table:
    """The rules of an app, checked."""

    def __init__(self, rules: object) -> None:
        if not isinstance(rules, Mapping):
            raise ConfigurationError(
                f"resilience={rules!r} should be a dictionary, as in {{'payments.*': {{'breaker': 'payments'}}}}"
            )
        self.rules = [_rule(key, options) for key, options in rules.items()]

    def of_task(self, name: str) -> Rule | None:
        """The first rule for tasks of that name."""
        return next((rule for rule in self.rules if not rule.of_queue and rule.pattern.fullmatch(name)), None)

    def of_queue(self, name: str) -> Rule | None:
        """The first rule for that queue."""
        return next((rule for rule in self.rules if rule.of_queue and rule.pattern.fullmatch(name)), None)

    def idle(self, tasks: Iterable[str], queues: Iterable[str]) -> list[str]:
        """The keys that match none of these."""
        tasks, queues = [name for name in tasks if not name.startswith("celery.")], list(queues)
        return [
            rule.key
            for rule in self.rules
            if not any(rule.pattern.fullmatch(name) for name in (queues if rule.of_queue else tasks))
        ]


def _rule(key: object, options: object) -> Rule:
    if isinstance(key, re.Pattern):
        pattern, of_queue, shown = key, False, key.pattern
    elif isinstance(key, str) and key:
        of_queue, shown = key.startswith(QUEUE), key
        pattern = re.compile(translate(key.removeprefix(QUEUE) if of_queue else key))
    else:
        raise ConfigurationError(f"resilience: {key!r} should be a task's name, a pattern or 'queue:NAME'")
    if not isinstance(options, Mapping):
        raise ConfigurationError(f"resilience[{shown!r}]={options!r} should be a dictionary of options")
    for option in options:
        if option not in _KNOWN:
            raise unknown_option(f"resilience[{shown!r}]", str(option), _KNOWN)
    return Rule(shown, pattern, of_queue, options)


_KNOWN = frozenset(TASK_OPTIONS) | frozenset(BREAKER_OPTIONS)


def make_protection(
    name: str, signature: inspect.Signature, options: Mapping[str, Any], time_limit: float | None
) -> Protection:
    """A protection from one dictionary of options, those of the task and those of its breaker."""
    ours = {option: value for option, value in options.items() if option in TASK_OPTIONS}
    theirs = {option: value for option, value in options.items() if option not in TASK_OPTIONS}
    for option in ("retry_for", "expected_exception", "ignored_exceptions", "success_exceptions"):
        if isinstance(ours.get(option), list):
            ours[option] = tuple(ours[option])
    return Protection(name, signature, Options(**ours), theirs, time_limit)


def install(app: Celery) -> None:
    """Protect the tasks of ``app`` as ``app.conf.resilience`` says: those there are, and those to come.

    Call it where the app is made, in every process that has it. ``celery.*`` is left alone, and so is what no rule
    matches. Twice is once.

    Raises:
        ConfigurationError: too late, a worker runs already; or the table is wrong, where it is read: at the latest
            when the app is finalized, as it is before a worker starts.
    """
    registry = _registry(app)
    if isinstance(registry, ProtectedRegistry):
        return
    if any("__trace__" in vars(task) and task.__trace__ is not None for task in registry.values()):
        raise ConfigurationError(
            "install(app) came too late: a worker runs already, and its tasks are built. Call it where the app is "
            "made, right after Celery(...)"
        )
    protected = ProtectedRegistry(app)
    setattr(app, "_tasks", protected)  # noqa: B010 - what Celery(tasks=...) sets
    for name, task in registry.items():
        protected[name] = task


def _registry(app: Celery) -> Any:
    """The tasks, without having the app finalized."""
    return app.__dict__["_tasks"]


class ProtectedRegistry(TaskRegistry):
    """The tasks of an app, each of which derives from :class:`ResilientTask`."""

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
    """``ResilientTask``, before whatever class the user has; what that says of requests is kept too."""
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


_tables: weakref.WeakKeyDictionary[Celery, tuple[Any, Table]] = weakref.WeakKeyDictionary()


def table_of(app: Celery) -> Table | None:
    """The rules in force for ``app``: those of its configuration, where :func:`install` was called."""
    if not isinstance(_registry(app), ProtectedRegistry):
        return None
    rules = app.conf.get("resilience")
    if rules is None:
        return None
    known = _tables.get(app)
    if known is None or known[0] is not rules:
        known = _tables[app] = rules, Table(rules)
    return known[1]


def route(app: Celery, cls: type[Any]) -> None:
    """Give a task class that no decorator has protected what the table says."""
    table = table_of(app)
    name = cls.name
    if table is None or cls.resilience is not None or not name or name.startswith("celery."):
        return
    rule = table.of_task(name)
    if rule is not None:
        cls.resilience = rule.protection(name, cls)
    elif any(rule.of_queue for rule in table.rules):
        cls.resilience_of_queue = staticmethod(partial(_of_queue, table, cls, {}))


def _of_queue(table: Table, cls: Any, known: dict[str, Protection | None], queue: str) -> Protection | None:
    if queue not in known:
        rule = table.of_queue(queue)
        known[queue] = None if rule is None else rule.protection(queue, cls)
    return known[queue]
