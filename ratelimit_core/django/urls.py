"""``path("resilience/", include("ratelimit_core.django.urls"))`` adds ``resilience/health/``."""

from __future__ import annotations

from django.urls import path

from .health import health

app_name = "resilience"
urlpatterns = [path("health/", health, name="health")]
