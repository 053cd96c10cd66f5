"""The routing table: which breaker and which limits protect which tasks, without a change to the tasks.

::

    app.conf.resilience = {
        "payments.*": {"breaker": "payments", "rate": "10/s;5000/h", "on_open": "defer"},
        "queue:mail": {"breaker": "smtp", "on_open": "pause"},
    }
    install(app)

A key is a task's name, a pattern as in ``task_routes`` (``*``, ``?``, ``[...]``), a compiled regular expression, or
``queue:`` with the name of a queue or a pattern of queue names. The first rule that matches applies. Rules for task
names take precedence over rules for queues. A decorator's options take precedence over all rules.
"""

from __future__ import annotations

import inspect
import re
import weakref
from collections.abc import Iterable, Mapping
from fnmatch import translate
from functools import partial
from typing import Any, NamedTuple

from celery import Celery

from ratelimit_core._util.suggest import unknown_option
from ratelimit_core.config.breaker import OPTIONS as BREAKER_OPTIONS
from ratelimit_core.errors import ConfigurationError

from .options import TASK_OPTIONS, Options, without_self
from .protection import Protection

QUEUE = "queue:"


class Rule(NamedTuple):
    """A rule of the table."""

    key: str
    pattern: re.Pattern[str]
    of_queue: bool
    options: Mapping[str, Any]

    def protection(self, name: str, task: Any) -> Protection:
        """Return the protection of ``task``. ``name`` is the breaker's name if the rule names no breaker."""
        signature = inspect.signature(task.run)
        if not isinstance(inspect.getattr_static(task, "run"), staticmethod | classmethod):
            signature = without_self(signature)
        try:
            return make_protection(name, signature, self.options, task.time_limit)
        except ConfigurationError as error:
            raise ConfigurationError(f"resilience[{self.key!r}], for the task {task.name}: {error}") from None


class Table:
    """The checked rules of an app."""

    def __init__(self, rules: object) -> None:
        if not isinstance(rules, Mapping):
            raise ConfigurationError(
                f"resilience={rules!r} should be a dictionary, as in {{'payments.*': {{'breaker': 'payments'}}}}"
            )
        self.rules = [_rule(key, options) for key, options in rules.items()]

    def of_task(self, name: str) -> Rule | None:
        """Return the first rule for the task ``name``, or None."""
        return next((rule for rule in self.rules if not rule.of_queue and rule.pattern.fullmatch(name)), None)

    def of_queue(self, name: str) -> Rule | None:
        """Return the first rule for the queue ``name``, or None."""
        return next((rule for rule in self.rules if rule.of_queue and rule.pattern.fullmatch(name)), None)

    def idle(self, tasks: Iterable[str], queues: Iterable[str]) -> list[str]:
        """Return the keys of the rules that match none of these tasks and queues."""
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
        raise ConfigurationError(f"resilience: the key {key!r} should be a task's name, a pattern or 'queue:NAME'")
    if not isinstance(options, Mapping):
        raise ConfigurationError(
            f"resilience[{shown!r}]={options!r} should be a dictionary of options, as in {{'breaker': 'payments'}}"
        )
    for option in options:
        if option not in _KNOWN:
            raise unknown_option(f"resilience[{shown!r}]", str(option), _KNOWN)
    return Rule(shown, pattern, of_queue, options)


_KNOWN = frozenset(TASK_OPTIONS) | frozenset(BREAKER_OPTIONS)


def make_protection(
    name: str, signature: inspect.Signature, options: Mapping[str, Any], time_limit: float | None
) -> Protection:
    """Make a protection from one dictionary, which has the options of the task and those of its breaker."""
    ours = {option: value for option, value in options.items() if option in TASK_OPTIONS}
    theirs = {option: value for option, value in options.items() if option not in TASK_OPTIONS}
    for option in ("retry_for", "expected_exception", "ignored_exceptions", "success_exceptions"):
        if isinstance(ours.get(option), list):
            ours[option] = tuple(ours[option])
    return Protection(name, signature, Options(**ours), theirs, time_limit)


installed: weakref.WeakSet[Celery] = weakref.WeakSet()
"""The apps whose tasks :func:`~resilient_tasks.install` protects."""
_tables: weakref.WeakKeyDictionary[Celery, tuple[Any, Table]] = weakref.WeakKeyDictionary()


def table_of(app: Celery) -> Table | None:
    """Return the rules of the app, or None if it has no rules or ``install(app)`` was not called."""
    if app not in installed:
        return None
    rules = app.conf.get("resilience")
    if rules is None:
        return None
    known = _tables.get(app)
    if known is None or known[0] is not rules:
        known = _tables[app] = rules, Table(rules)
    return known[1]


def route(app: Celery, cls: type[Any]) -> None:
    """Protect a task class by the routing table, unless a decorator protects the class."""
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
