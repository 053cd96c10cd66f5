from __future__ import annotations

from django.contrib import admin
from django.urls import include, path

from tests.django.operators.site import views

urlpatterns = [
    path("admin/", admin.site.urls),
    path("resilience/", include("ratelimit_core.django.urls")),
    path("pay/<str:how>/", views.pay),
]
