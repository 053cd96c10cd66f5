"""The site of the soak, for uvicorn: one view, which calls a service in the request."""

from __future__ import annotations

import os
import uuid

import django
import requests
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path

from example_worker.payments import get_quote
from example_worker.processes import die_with_parent
from ratelimit_core import CircuitBreaker
from ratelimit_core.django.decorators import rate_limit
from tests.soak.app import BREAKER

settings.configure(
    SECRET_KEY="for tests only",
    ALLOWED_HOSTS=["127.0.0.1"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=["ratelimit_core.django"],
    MIDDLEWARE=["ratelimit_core.django.middleware.ResilienceMiddleware"],
    RATELIMIT_BACKEND=os.environ.get("SOAK_STORE"),
)
django.setup()
quotes = CircuitBreaker("quotes", **BREAKER)


@rate_limit(
    lambda request: uuid.uuid4().hex, "5/s"
)  # every visit is a new visitor, and leaves a key to be cleared away
def quote(request: HttpRequest) -> HttpResponse:
    try:
        with quotes:
            return JsonResponse({"fee": get_quote()})
    except requests.RequestException:
        return HttpResponse(status=502)


urlpatterns = [path("quote", quote)]
application = get_asgi_application()
die_with_parent()
