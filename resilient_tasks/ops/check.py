"""``python -m resilient_tasks check``: find what is missing or dangerous in a configuration, before it runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from celery import Celery
from celery.app.utils import find_app
from kombu.exceptions import KombuError

from ratelimit_core._util.redact import masked, without_secrets
from ratelimit_core.errors import BackendError, CircuitBreakerError, ConfigurationError
from ratelimit_core.policies import BREAKER
from ratelimit_core.store.configured import get_store

from ..queues import delays_natively, holding_time
from ..task import ResilientTask
from ..worker.warnings import advise

ERROR, WARNING, INFO = "error", "warning", "info"
_EVICTS = "maxmemory_policy"
_PATIENCE = 5  # seconds for the broker to answer
_LIBRARIES = ("resilient-tasks", "celery", "kombu", "django", "redis")


@dataclass(frozen=True, slots=True)
class Finding:
    """A finding of the check: its level, what is wrong or notable, why this matters, and what to write instead."""

    level: str
    what: str
    why: str = ""
    instead: str = ""


def check(name: str | None) -> list[Finding]:
    """Check the store, the app ``name`` (as for ``celery -A``) with its broker, and Django's settings if there are any.

    Without a ``name``, no app is checked. This function connects to the store and to the broker, but changes neither.
    It returns the errors of a broken configuration as findings, and does not raise them.
    """
    found = [Finding(INFO, _versions())]
    app = None
    if name is not None:
        try:
            app = _load(name)
        except (Exception, SystemExit) as error:
            found.append(
                Finding(
                    ERROR,
                    f"the app {name!r} can't be loaded: {_said(error)}",
                    "no worker can start with this app either",
                    "name the app as for `celery -A`, run this command where workers start, and fix the error",
                )
            )
    looks: list[Callable[[], Iterator[Finding]]] = [_of_store]
    if os.environ.get("DJANGO_SETTINGS_MODULE"):
        looks.append(_of_django)
    if app is not None:
        looks += [lambda: _of_tasks(app), lambda: _of_broker(app)]
    for look in looks:
        try:
            found += look()
        except ConfigurationError as error:
            found.append(Finding(ERROR, _said(error), "tasks that need this setting fail", "fix the setting"))
        except Exception as error:  # a project may break in any way
            where = getattr(look, "__name__", "").removeprefix("_of_")
            found.append(Finding(ERROR, f"{where} can't be checked: {_said(error)}", instead="fix this error first"))
    return list(dict.fromkeys(found))


def _load(name: str) -> Celery:
    app: Celery = find_app(name)
    app.set_current()
    app.finalize()
    app.loader.import_default_modules()
    return app


def _versions() -> str:
    versions = []
    for library in _LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            versions.append(f"{library} {metadata.version(library)}")
    return ", ".join(versions)


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {masked(str(error))}"


def _of_store() -> Iterator[Finding]:
    backend = get_store().backend
    if not backend.shared:
        yield Finding(
            ERROR,
            "the store is memory, so each worker process has its own store",
            "a breaker opens in one process and not in the others, and a limit of 10/s allows 10/s in each process",
            "app.conf.resilience_backend = 'redis://...', or RATELIMIT_BACKEND in Django's settings or the environment",
        )
    try:
        backend.keys(BREAKER)
    except (BackendError, CircuitBreakerError) as error:
        yield Finding(
            ERROR,
            f"the store does not answer: {_said(error)}",
            "until the store answers, each process decides alone",
            "start the store, or correct its URL, and check that this machine can reach it",
        )
        return
    for member in getattr(backend, "backends", (backend,)):
        info = getattr(member, "info", None)  # Redis has this method
        if said := info and info():
            yield from _of_redis("store", said)


def _of_redis(role: str, info: dict[str, Any]) -> Iterator[Finding]:
    evicts = str(info.get(_EVICTS, "noeviction"))
    if evicts != "noeviction":
        lost = "open breakers and counts vanish" if role == "store" else "messages vanish"
        yield Finding(
            WARNING,
            f"the {role}'s Redis has maxmemory-policy {evicts}",
            f"when its memory is full, {lost}",
            "maxmemory-policy noeviction, on a server that is not a cache",
        )
    elif not info.get("maxmemory"):
        yield Finding(
            INFO,
            f"the {role}'s Redis has no maxmemory",
            "Redis may grow until the machine has no memory left",
            "maxmemory, below the memory of the machine",
        )
    if role == "broker" and not info.get("aof_enabled"):
        yield Finding(
            WARNING,
            "the broker's Redis does not log every command (appendonly no)",
            "if Redis stops, tasks that were sent after its last snapshot are lost",
            "appendonly yes",
        )


def _of_django() -> Iterator[Finding]:
    from ratelimit_core.django.checks import findings

    for serious, what, hint in findings():
        yield Finding(ERROR if serious else WARNING, what, "see `manage.py check`", hint)


def _of_tasks(app: Celery) -> Iterator[Finding]:
    for advice in advise(app):
        what, _, instead = advice.rpartition(": ")
        yield Finding(WARNING, what, "this works, but perhaps not as you expect", instead)
    protected = [
        (name, task)
        for name, task in sorted(app.tasks.items())
        if isinstance(task, ResilientTask) and (task.resilience or task.resilience_of_queue)
    ]
    if not protected:
        yield Finding(
            WARNING,
            "no task is protected",
            "all tasks run without breakers and limits",
            "@breaker_task, or install(app) and app.conf.resilience = {'payments.*': {...}}",
        )
    for name, task in protected:
        if task.acks_late and not task.reject_on_worker_lost:
            yield Finding(
                INFO,
                f"{name}: acks_late without reject_on_worker_lost",
                "a task whose process is killed (out of memory, for example) fails and does not run again",
                "task_reject_on_worker_lost=True, if the task may run twice",
            )
    pausing = [name for name, task in protected if task.resilience and task.resilience.options.on_open == "pause"]
    if pausing and app.conf.worker_prefetch_multiplier != 1:
        yield Finding(
            WARNING,
            f"worker_prefetch_multiplier={app.conf.worker_prefetch_multiplier} with on_open='pause' ({pausing[0]})",
            "messages that a worker has prefetched when the breaker opens return to the queue one by one",
            "worker_prefetch_multiplier = 1",
        )


def _of_broker(app: Celery) -> Iterator[Finding]:
    url = without_secrets(app.conf.broker_read_url or "amqp://, by default")
    asked: Any = app.connection_for_read(connect_timeout=_PATIENCE)
    try:
        with asked as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0, timeout=_PATIENCE)
            if connection.transport.driver_type == "redis":
                yield from _of_redis("broker", connection.default_channel.client.info())
    except (OSError, KombuError, *asked.connection_errors) as error:
        yield Finding(
            ERROR,
            f"the broker {url} does not answer: {_said(error)}",
            "nothing can be published, and a task that has to wait can't be deferred",
            "start the broker, or correct broker_url",
        )
        return
    holds = holding_time(app)
    if delays_natively(app):
        yield Finding(INFO, "RabbitMQ itself delays deferred tasks", "the app has quorum queues")
    else:
        yield Finding(
            INFO,
            f"workers hold deferred tasks, and the broker delivers a message again after {holds:g} s",
            f"so longer waits are cut into parts of {holds / 2:g} s",
        )
    limit = app.conf.task_time_limit
    if app.conf.task_acks_late and (not limit or limit >= holds):
        yield Finding(
            WARNING,
            f"task_acks_late with task_time_limit={limit}, but the broker delivers a message again after {holds:g} s",
            "a task that runs longer is delivered a second time while it still runs",
            f"task_time_limit below {holds:g}, or a longer visibility_timeout (RabbitMQ: consumer_timeout)",
        )
