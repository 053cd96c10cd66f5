"""The health endpoint for monitors: ``path("resilience/", include("ratelimit_core.django.urls"))``."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from .._util.throttle import Resting
from ..circuit_breaker import circuit_breaker_registry
from ..errors import ResilienceError
from ..store import configured


def circuit_breaker_health() -> dict[str, Any]:
    """Return the state of the fleet in numbers. Raise nothing.

    Costs two round trips, and one for each breaker with a manual override.

    ``total``: the breakers in the store. ``failing``: how many of them are open, including forced ones.
    ``healthy``: the store answers, and no breaker is failing. ``store``: ``up``, ``backend`` (the class) and, if it is
    unavailable, ``error``; the two numbers are then None.
    """
    backend = ""
    try:
        backend = type(configured.get_backend()).__name__
        fleet = circuit_breaker_registry.get_fleet_status()
    except ResilienceError as error:
        unavailable = {"up": False, "backend": backend, "error": str(error)}
        return {"total": None, "failing": None, "healthy": False, "store": unavailable}
    failing = sum(1 for status in fleet.values() if status["state"] == "open")
    store = {"up": True, "backend": backend}
    return {"total": len(fleet), "failing": failing, "healthy": failing == 0, "store": store}


_looked = Resting(circuit_breaker_health)


@login_not_required
@never_cache
@require_safe
def health(request: HttpRequest) -> JsonResponse:
    """Return :func:`circuit_breaker_health` as JSON. It is public: it holds no names and no text of errors.

    The status is 200 while the store answers, else 503. An open breaker is 200 and ``"healthy": false``, because a
    supplier's failure is no reason to take this process out of service. A monitor that raises an alarm for open
    breakers asks for ``?fail_on_open=1``, and gets 503 for them too. GET and HEAD only. Because the endpoint is
    public, the store is not asked each time: an answer is reused for ten times as long as it took.
    """
    found = _looked()
    store = {name: value for name, value in found["store"].items() if name != "error"}  # an error may name hosts
    up = store["up"]
    well = found["healthy"] if request.GET.get("fail_on_open") == "1" else up
    return JsonResponse({**found, "store": store}, status=200 if well else 503)
