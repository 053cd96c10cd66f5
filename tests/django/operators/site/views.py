"""A page that depends on a supplier, behind a breaker."""

from __future__ import annotations

import os
import time

from django.http import HttpRequest, HttpResponse

from ratelimit_core import CircuitBreaker, CircuitBreakerError

payments = CircuitBreaker("payments", failure_threshold=3, recovery_timeout=1, cache_ttl=0)
quotes = CircuitBreaker("quotes", shadow=True)


def pay(request: HttpRequest, how: str) -> HttpResponse:
    """``well``, ``badly``, or ``slowly``: well, but only once the file that SITE_GATE names is there."""
    try:
        with payments:
            if how == "badly":
                raise ConnectionError
            while how == "slowly" and not os.path.exists(os.environ["SITE_GATE"]):
                time.sleep(0.01)
    except CircuitBreakerError as error:
        return HttpResponse(error.state, status=503)
    except ConnectionError:
        return HttpResponse("failed", status=502)
    return HttpResponse("paid")
