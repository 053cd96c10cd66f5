from __future__ import annotations

from django.urls import path

from tests.django import views

urlpatterns = [path(f"{name}/", view) for name, view in views.VIEWS.items()]
