"""The URLs of the dashboard, of ``health/`` and of ``metrics/``.

Include them with ``path("resilience/", include("ratelimit_core.django.urls"))``.
"""

from __future__ import annotations

from django.urls import path

from .console.views import asset, breaker, fleet
from .health import health
from .metrics import metrics

app_name = "resilience"
urlpatterns = [
    path("", fleet, name="fleet"),
    path("breakers/<str:address>/", breaker, name="breaker"),
    path("assets/<str:version>/<str:name>", asset, name="asset"),
    path("health/", health, name="health"),
    path("metrics/", metrics, name="metrics"),
]
