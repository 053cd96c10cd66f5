"""The views. ``quote`` calls the payment service behind the breaker and the limit of the workers."""

import asyncio
import os
import time
from typing import Any

import requests
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from example_worker import ordering
from example_worker.payments import Upstream, get_quote, service_url
from example_worker.tasks import BREAKER, CALLS_PER_SECOND
from ratelimit_core import CircuitBreaker, Limiter, ResilienceError
from ratelimit_core.django.decorators import rate_limit

SHOWN = 50  # orders on the page and in the API
MODES = ("up", "down")
CONTENT_SECURITY_POLICY = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"

payments = CircuitBreaker(BREAKER)  # refers to the breaker that `tasks.py` defines
allowance = Limiter(f"{CALLS_PER_SECOND}/s", key=BREAKER)  # same rate and key as the tasks, so one count


@never_cache
@require_safe
async def shop(request: HttpRequest) -> HttpResponse:
    """Return the page with the current state. The page fetches later states from ``state()``."""
    flower = os.environ.get("FLOWER_PORT")
    context = {
        "state": await now(),
        "breaker": BREAKER,
        "calls_per_second": CALLS_PER_SECOND,
        "numbers": ordering.NUMBERS,
        "flower": f"http://127.0.0.1:{flower}/tasks" if flower else "",
    }
    response = render(request, "example_worker/shop.html", context)
    response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    return response


@never_cache
@require_safe
async def state(request: HttpRequest) -> JsonResponse:
    """Return the state that the page shows."""
    return JsonResponse(await now())


@require_POST
def place_orders(request: HttpRequest) -> HttpResponse:
    """Place orders. Redirect to the page, or return the new ids to a client that accepts only JSON."""
    number = request.POST.get("number", "")
    if number not in map(str, ordering.NUMBERS):
        return refused(f"number={number!r} should be one of {', '.join(map(str, ordering.NUMBERS))}")
    orders = ordering.place(int(number))
    return done(request, {"placed": [str(order.pk) for order in orders]}, 201)


@require_POST
def switch_service(request: HttpRequest) -> HttpResponse:
    """Switch the payment service to ``down`` or ``up``."""
    mode = request.POST.get("mode", "")
    if mode not in MODES:
        return refused(f"mode={mode!r} should be one of {', '.join(MODES)}")
    try:
        Upstream(service_url()).switch(mode)
    except requests.RequestException as error:
        return unreachable(error)
    return done(request, {"mode": mode}, 200)


@never_cache
@require_safe
def quote(request: HttpRequest) -> JsonResponse:
    """Return the fee, from a call to the service. While the breaker is open, answer 503 with ``Retry-After``."""
    try:
        with payments, allowance:
            return JsonResponse({"fee": get_quote()})
    except requests.RequestException as error:
        return unreachable(error)


@never_cache
@require_safe
def quote_plain(request: HttpRequest) -> JsonResponse:
    """Return the fee without a breaker and a limit, for comparison."""
    try:
        return JsonResponse({"fee": get_quote()})
    except requests.RequestException as error:
        return unreachable(error)


@require_safe
@rate_limit(key="ip", rate="5/s;60/m")
async def api_orders(request: HttpRequest) -> JsonResponse:
    """Return the latest orders as JSON."""
    return JsonResponse({"orders": await ordering.shown(SHOWN)})


async def now() -> dict[str, Any]:
    """Return the state of the orders, the breaker and the service, read concurrently."""
    counts, orders, breaker, service = await asyncio.gather(
        ordering.counted(),
        ordering.shown(SHOWN),
        asyncio.to_thread(breaker_now),
        asyncio.to_thread(service_now),
    )
    return {"counts": counts, "orders": orders, "breaker": breaker, "service": service, "process": os.getpid()}


def breaker_now() -> dict[str, Any]:
    """Return the shared state of the breaker."""
    try:
        status = payments.get_status()
    except ResilienceError as error:
        return {"state": "unknown", "error": str(error)}
    due = status["next_attempt_time"]
    return {
        "state": status["state"],
        "mode": status["mode"],
        "failures": status["failure_count"],
        "threshold": status["failure_threshold"],
        "probe_in": None if due is None else max(0.0, round(due - time.time(), 1)),
    }


def service_now() -> dict[str, Any]:
    """Return the counts of the payment service."""
    try:
        stats = Upstream(service_url()).stats()
    except requests.RequestException:
        return {"mode": "unknown"}
    return {name: stats[name] for name in ("mode", "calls", "last_second", "orders", "duplicates")}


def done(request: HttpRequest, found: dict[str, Any], status: int) -> HttpResponse:
    """Return a redirect to the page, or JSON to a client that does not accept HTML."""
    if request.accepts("text/html"):
        return HttpResponseRedirect(reverse("shop"))
    return JsonResponse(found, status=status)


def refused(error: str) -> JsonResponse:
    return JsonResponse({"error": error}, status=400)


def unreachable(error: requests.RequestException) -> JsonResponse:
    return JsonResponse({"error": f"the payment service did not answer: {type(error).__name__}"}, status=502)
