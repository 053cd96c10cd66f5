"""What Celery adds to the metrics for Prometheus: ``resilient_tasks.metrics.install(port=9808)`` beside the app."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from celery.signals import task_postrun, worker_process_shutdown, worker_ready
from prometheus_client import CollectorRegistry, start_http_server

from ratelimit_core.errors import CircuitBreakerError
from ratelimit_core.metrics import prometheus

from .protection import Protection
from .signals import rate_limited, task_deferred, task_released

_serving: dict[str, int] = {}


def install(port: int | None = None, address: str = "127.0.0.1") -> None:
    """Count in this process and its children and, with ``port``, have the worker serve what all of them counted.

    Under prefork set ``PROMETHEUS_MULTIPROC_DIR``: without it the worker tells of its main process alone.
    """
    prometheus.install()
    task_deferred.connect(_deferred)
    task_released.connect(_released)
    rate_limited.connect(_limited)
    task_postrun.connect(_ended)
    worker_process_shutdown.connect(_leaving)
    if port is not None:
        _serving.update({address: port})
        worker_ready.connect(_serve)


def _deferred(sender: Any, reason: BaseException, countdown: float, **_: Any) -> None:
    why = "breaker" if isinstance(reason, CircuitBreakerError) else "limit"
    prometheus.deferrals.labels(sender.name, why).inc()
    prometheus.deferred.labels(sender.name, why).inc(countdown)


def _released(sender: Any, waited: float, **_: Any) -> None:
    prometheus.waited.labels(sender.name).observe(waited)


def _limited(sender: Any, **_: Any) -> None:
    prometheus.limited.labels(sender.name).inc()


def _ended(task: Any, args: Any, kwargs: Any, **_: Any) -> None:
    """An idle child tells nothing later; but there may be very many breakers."""
    protection: Protection | None = getattr(task, "resilience", None)
    with suppress(TypeError, LookupError):  # arguments that make no sense to the task, which has said so
        if protection is not None and (breaker := protection.subject(args, kwargs).breaker) is not None:
            prometheus.flush(breaker._known)
    prometheus.flush_if_due()


def _leaving(**_: Any) -> None:
    prometheus.flush()


def _serve(**_: Any) -> None:
    """In the worker's main process, whose children count into the common directory."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(prometheus.Exposition())
    for address, port in _serving.items():
        start_http_server(port, address, registry)
