"""The project as many processes serve it."""

from __future__ import annotations

from django.core.wsgi import get_wsgi_application

from ratelimit_core.django import metrics

application = get_wsgi_application()
metrics.install()
