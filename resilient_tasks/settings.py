"""Settings of the Celery app: ``app.conf.resilience_*`` is a source of :mod:`ratelimit_core.settings`."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery
from celery import _state as celery_state

from ratelimit_core.settings import add_source

_OFF = {"0", "false", "no", "off"}

ENABLED = os.environ.get("RESILIENCE_ENABLED", "1").strip().lower() not in _OFF
"""The one switch: with ``RESILIENCE_ENABLED=0`` in the environment tasks run unguarded."""


def current_app() -> Celery | None:
    """The app that is current or the default; none is made."""
    # `celery.current_app` would make an app, and look for its configuration, where there is none.
    state: Any = celery_state
    app: Celery | None = state._tls.current_app or state.default_app
    return app


def _from_app(name: str) -> Any:
    app = current_app()
    return None if app is None else app.conf.get(f"resilience_{name}")


add_source(_from_app)

_DEFAULT_VISIBILITY = {"sqs": 1800.0}


def longest_countdown(app: Celery) -> float:
    """How many seconds the broker can safely hold a message for a worker that waits with it.

    Redis and SQS deliver again what is not acknowledged within the ``visibility_timeout``; RabbitMQ closes the
    channel after its ``consumer_timeout``, 30 minutes by default. Half of either is kept in reserve; who has
    to wait longer waits again.
    """
    url: Any = app.conf.broker_read_url
    first = url[0] if isinstance(url, list | tuple) else url or ""
    scheme = first.partition("://")[0].partition("+")[0]
    if scheme in ("amqp", "amqps", "pyamqp", ""):
        return 900.0
    options = app.conf.broker_transport_options or {}
    return float(options.get("visibility_timeout") or _DEFAULT_VISIBILITY.get(scheme, 3600.0)) / 2
