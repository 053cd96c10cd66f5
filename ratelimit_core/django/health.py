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

    Costs the round trips of ``circuit_breaker_registry.get_fleet_status()``.

    Returns:
        A dictionary. ``total`` is the number of breakers in the store. ``failing`` is the number of open breakers,
        including forced open ones. Both are None if the store is unavailable. ``healthy`` is True if the store answers
        and no breaker is open. ``store`` is a dictionary: ``up``, ``backend`` (the name of the class) and, if the store
        is unavailable, ``error``.
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
    """Return :func:`circuit_breaker_health` as JSON, without a login and so without names and error texts.

    The status is 200 while the store answers, otherwise 503. An open breaker gives 200 and ``"healthy": false``,
    because a supplier's failure is no reason to take this process out of service. A monitor that should raise an alarm
    for open breakers asks for ``?fail_on_open=1``, which gives 503 for them too.

    Because the endpoint is public, an answer is reused for ten times as long as the store took to give it.
    """
    found = _looked()
    store = {name: value for name, value in found["store"].items() if name != "error"}  # an error may name hosts
    up = store["up"]
    well = found["healthy"] if request.GET.get("fail_on_open") == "1" else up
    return JsonResponse({**found, "store": store}, status=200 if well else 503)
