"""What the dashboard keeps between two requests of one process; what it shows is in tests/django/operators."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from django.test import RequestFactory
from django.urls import include, path

from ratelimit_core import CircuitBreaker, configure
from ratelimit_core.django.console import views
from ratelimit_core.django.console.url_names import address
from tests.django.conftest import Configure

urlpatterns = [path("resilience/", include("ratelimit_core.django.urls"))]
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]


@pytest.mark.parametrize("name", ["used", "never used"])
def test_who_looks_at_one_breaker_changes_nothing_under_the_feet_of_who_looks_at_all(
    name: str, requests: RequestFactory, configured: Configure
) -> None:
    configured(ROOT_URLCONF=__name__, TEMPLATES=TEMPLATES)
    configure(backend="memory://")
    CircuitBreaker("used").force_open("ann", "a drill")
    views.looked.forget()
    seen = views.looked()
    before = dict(seen.histories)
    CircuitBreaker("used").clear_override("ann", "it is over")
    request = requests.get("/")
    request.user = SimpleNamespace(is_authenticated=True, has_perm=lambda permission: True)  # type: ignore[assignment]
    page = views.breaker(request, address(name))
    assert (page.status_code, "it is over" in page.content.decode()) == (200, name == "used")
    assert seen.histories == before
    views.looked.forget()
