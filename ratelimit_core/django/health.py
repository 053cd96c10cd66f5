"""Whether all is well, for monitors: ``path("resilience/", include("ratelimit_core.django.urls"))``."""

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
    """How the fleet is, in numbers. Two round trips, and one for each breaker that a person has forced.

    ``total``: the breakers in the store. ``failing``: those of them that are open, forced ones included.
    ``healthy``: the store answers, and none is failing. ``store``: ``up``, ``backend`` (the class) and, if it is
    away, ``error``; the two numbers are then None. It raises nothing.
    """
    backend = ""
    try:
        backend = type(configured.get_backend()).__name__
        fleet = circuit_breaker_registry.get_fleet_status()
    except ResilienceError as error:
        away = {"up": False, "backend": backend, "error": str(error)}
        return {"total": None, "failing": None, "healthy": False, "store": away}
    failing = sum(1 for status in fleet.values() if status["state"] == "open")
    store = {"up": True, "backend": backend}
    return {"total": len(fleet), "failing": failing, "healthy": failing == 0, "store": store}


_looked = Resting(circuit_breaker_health)


@login_not_required
@never_cache
@require_safe
def health(request: HttpRequest) -> JsonResponse:
    """:func:`circuit_breaker_health` as JSON, for anybody: it holds no names, and of an error no words.

    200 while the store answers, else 503. An open breaker is 200 and ``"healthy": false``: that a supplier is
    down is no reason to take this process out of service. A monitor that is to raise the alarm on that asks for
    ``?fail_on_open=1``, and gets 503 for it too. GET and HEAD only. Anybody may ask, so the store is not asked each
    time: what it said is good for ten times as long as it took to say.
    """
    found = _looked()
    store = {name: value for name, value in found["store"].items() if name != "error"}  # which may name hosts
    up = store["up"]
    well = found["healthy"] if request.GET.get("fail_on_open") == "1" else up
    return JsonResponse({**found, "store": store}, status=200 if well else 503)
