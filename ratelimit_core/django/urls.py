"""``path("resilience/", include("ratelimit_core.django.urls"))`` adds the dashboard and ``resilience/health/``."""

from __future__ import annotations

from django.urls import path

from .dashboard import asset, breaker, fleet
from .health import health

app_name = "resilience"
urlpatterns = [
    path("", fleet, name="fleet"),
    path("breakers/<str:address>/", breaker, name="breaker"),
    path("assets/<str:version>/<str:name>", asset, name="asset"),
    path("health/", health, name="health"),
]
