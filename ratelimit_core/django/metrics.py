"""The endpoint ``resilience/metrics/`` for Prometheus, which needs ``pip install resilient-tasks[prometheus]``."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.decorators import login_not_required
from django.core.signals import request_finished
from django.http import HttpRequest, HttpResponse
from django.utils.crypto import constant_time_compare
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from ..config.sources import setting
from ..metrics import exporter
from .console.permissions import SEE


def install() -> None:
    """Count in this process and its forks. Call this in ``wsgi.py``, for example. See :mod:`ratelimit_core.metrics`."""
    from ..metrics import prometheus

    prometheus.install()
    request_finished.connect(_finished)


def _finished(**_: Any) -> None:
    exporter.flush_if_due()


@login_not_required
@never_cache
@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """Return the counts of the site's processes and the state that the fleet shares, for Prometheus.

    A request needs ``Authorization: Bearer`` with the setting ``metrics_token``, or a user who may see the dashboard.
    Other requests get 401. Costs the round trips of :func:`ratelimit_core.metrics.fleet.readings`.
    """
    if not _may_read(request):
        return HttpResponse(
            "send the setting metrics_token as a Bearer token, or log in as a user who may see the dashboard\n",
            "text/plain",
            401,
            headers={"WWW-Authenticate": "Bearer"},
        )
    try:
        from ..metrics import prometheus
    except ImportError as error:
        return HttpResponse(f"{error}\n", "text/plain", 501)
    text, content_type = prometheus.exposition(request.headers.get("Accept", ""))
    return HttpResponse(text, content_type)


def _may_read(request: HttpRequest) -> bool:
    token = setting("metrics_token")
    if token and constant_time_compare(request.headers.get("Authorization", ""), f"Bearer {token}"):
        return True
    user: Any = getattr(request, "user", None)
    return user is not None and user.is_active and user.has_perm(SEE)
