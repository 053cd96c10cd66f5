"""Metrics of Celery tasks: call ``resilient_tasks.metrics.install(port=9808)`` where the app is created."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from celery.signals import task_postrun, worker_process_shutdown, worker_ready

from ratelimit_core.circuit_breaker.breaker import cache_of
from ratelimit_core.errors import CircuitBreakerError
from ratelimit_core.metrics import exporter

from .protection import Protection
from .signals import rate_limited, task_deferred, task_resumed

if TYPE_CHECKING:
    from opentelemetry.metrics import Meter

_serving: dict[str, int] = {}


def install(port: int | None = None, address: str = "127.0.0.1") -> None:
    """Count for Prometheus in this process and its children. With ``port``, a worker serves the counts over HTTP.

    With the prefork pool, set ``PROMETHEUS_MULTIPROC_DIR``. Otherwise the worker serves only the counts of its main
    process.
    """
    from ratelimit_core.metrics import prometheus

    prometheus.install()
    _count_tasks()
    if port is not None:
        _serving.update({address: port})
        worker_ready.connect(_serve)


def install_opentelemetry(meter: Meter | None = None, *, fleet: bool = True) -> None:
    """Count for OpenTelemetry in this process. See :func:`ratelimit_core.metrics.opentelemetry.install`.

    With the prefork pool, call this function in each child process, for example on the signal ``worker_process_init``.
    """
    from ratelimit_core.metrics import opentelemetry

    opentelemetry.install(meter, fleet=fleet)
    _count_tasks()


def _count_tasks() -> None:
    task_deferred.connect(_deferred)
    task_resumed.connect(_released)
    rate_limited.connect(_limited)
    task_postrun.connect(_ended)
    worker_process_shutdown.connect(_leaving)


def _deferred(sender: Any, reason: BaseException, countdown: float, **_: Any) -> None:
    why = "breaker" if isinstance(reason, CircuitBreakerError) else "limit"
    exporter.add(exporter.DEFERRALS, 1, sender.name, why)
    exporter.add(exporter.DEFERRED, countdown, sender.name, why)


def _released(sender: Any, waited: float, **_: Any) -> None:
    exporter.record(exporter.WAITED, waited, sender.name)


def _limited(sender: Any, **_: Any) -> None:
    exporter.add(exporter.LIMITED, 1, sender.name)


def _ended(task: Any, args: Any, kwargs: Any, **_: Any) -> None:
    """Export the counts after each run, because a child process that is idle afterwards would not export them."""
    protection: Protection | None = getattr(task, "resilience", None)
    with suppress(TypeError, LookupError):  # the arguments do not fit the task, so the run has failed
        if protection is not None and (breaker := protection.subject(args, kwargs).breaker) is not None:
            exporter.flush(cache_of(breaker))
    exporter.flush_if_due()


def _leaving(**_: Any) -> None:
    exporter.flush()


def _serve(**_: Any) -> None:
    """Serve the metrics in the worker's main process. Its children write their counts to the common directory."""
    from prometheus_client import CollectorRegistry, start_http_server

    from ratelimit_core.metrics import prometheus

    registry = CollectorRegistry(auto_describe=False)
    registry.register(prometheus.Exposition())
    for address, port in _serving.items():
        start_http_server(port, address, registry)
