"""The dashboard: which dependencies fail and since when, waiting tasks, the next probes, and manual overrides.

Mount the dashboard with ``path("resilience/", include("ratelimit_core.django.urls"))``. Operators need the permission
``ratelimit_core.view_breaker`` to see the dashboard, and ``ratelimit_core.change_breaker`` to act.

Each process reads the fleet from the configured backend at most once a second for all users together, and once more
after an operator's action. A page of one breaker also reads the history of this breaker, in one round trip.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache, wraps
from importlib.resources import files
from typing import Any

from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_protect
from django.views.decorators.http import require_http_methods, require_safe

from ..._util.clock import SECOND
from ..._util.text import printable, span
from ..._util.throttle import Resting
from ...circuit_breaker import circuit_breaker_registry
from ...circuit_breaker.history import EVENTS
from ...errors import ResilienceError
from ...fleet.describe import probe_of, word_of
from ...fleet.status import Fleet, look
from ...fleet.timeline import Span, timeline
from ...fleet.usage import LimitInUse
from .actions import ACTIONS, act
from .forms import ControlForm
from .permissions import ACT, SEE
from .presentation import moment, shown, shown_entry
from .url_names import address, name_at

View = Callable[..., HttpResponse]

HOURS = (1, 6, 24, 72)
"""The possible lengths of timelines, in hours. The first is the default."""
_SHOWN = 200
_TOLD = 30
_WIDTH, _NARROWEST = 1000, 8
_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
_ASSETS = {
    "dashboard.css": "text/css; charset=utf-8",
    "dashboard.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}

looked = Resting(look, at_least=SECOND)
"""Reads the state of the fleet. A result is reused for 1 s, or for ten times the read's duration if that is longer."""


def _with_history(seen: Fleet, name: str, entries: list[dict[str, Any]]) -> Fleet:
    """Return a copy of ``seen`` with the history of one more breaker, and cache the copy for other requests.

    The store no longer lists a breaker that was reset, but "Latest events" still has to show its history.
    """
    more = seen._replace(histories={**seen.histories, name: entries})
    looked.replace(seen, more)
    return more


def _guarded(permission: str) -> Callable[[View], View]:
    """Require ``permission``. Forbid caching, framing, and scripts and styles from other origins."""

    def decorate(view: View) -> View:
        @wraps(view)
        def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            user = getattr(request, "user", None)
            if user is None or not user.is_authenticated:
                return redirect_to_login(request.get_full_path())
            if not user.has_perm(permission):
                raise PermissionDenied
            response = view(request, *args, **kwargs)
            response["Content-Security-Policy"] = _POLICY
            response["X-Frame-Options"] = "DENY"
            response["Referrer-Policy"] = "same-origin"
            return response

        return never_cache(csrf_protect(guarded))

    return decorate


@_guarded(SEE)
@require_safe
def fleet(request: HttpRequest) -> HttpResponse:
    """Show the breakers and limits, the worst first.

    ``?q=`` filters by a part of the name. ``?hours=`` is the length of the timelines, one of :data:`HOURS`.
    """
    seen = looked()
    part, hours = request.GET.get("q", ""), _hours(request)
    found = [name for name in seen.worst_first() if part in name]
    by_state = {
        state: sum(status["state"] == state for status in seen.breakers.values())
        for state in ("open", "half_open", "closed")
    }
    context = {
        "unavailable": seen.unavailable,
        "headline": seen.headline(),
        "numbers": by_state,
        "overruled": sum(status["mode"] != "automatic" for status in seen.breakers.values()),
        "total": len(seen.breakers),
        "found": len(found),
        "part": printable(part),
        "breakers": [_card(seen, name, hours) for name in found[:_SHOWN]],
        "rates": [_bar(limit) for limit in seen.limits if limit.algorithm != "concurrency" and part in limit.key],
        "places": [_bar(limit) for limit in seen.limits if limit.algorithm == "concurrency" and part in limit.key],
        "told": _told(seen, part),
        "hours": hours,
        "all_hours": HOURS,
        "now": timezone.now(),
    }
    return _page(request, "fleet", context)


@_guarded(SEE)
@require_http_methods(["GET", "HEAD", "POST"])
def breaker(request: HttpRequest, address: str) -> HttpResponse:
    """Show a breaker's status, history and actions. A POST carries out an action."""
    try:
        name = name_at(address)
    except ValueError as error:
        raise Http404(f"no breaker has the address {address!r}") from error
    may_act = request.user.has_perm(ACT)
    if request.method == "POST" and not may_act:
        raise PermissionDenied
    form = ControlForm(request.POST or None)
    if request.method == "POST" and form.is_valid() and _act(request, name, form):
        return HttpResponseRedirect(reverse("resilience:breaker", args=[address], current_app=_space(request)))
    seen, hours = looked(), _hours(request)
    entries: list[dict[str, Any]] = []
    unavailable = seen.unavailable
    with suppress(ResilienceError):
        entries = [] if unavailable else circuit_breaker_registry.refer(name).history()
    seen = _with_history(seen, name, entries)
    context = {
        "name": printable(name),
        "unavailable": unavailable,
        "breaker": _card(seen, name, hours) if name in seen.breakers else None,
        "entries": [shown_entry(entry) for entry in entries],
        "form": form if may_act else None,
        "actions": ACTIONS,
        "hours": hours,
        "all_hours": HOURS,
        "now": timezone.now(),
    }
    return _page(request, "breaker", context)


@require_safe
def asset(request: HttpRequest, version: str, name: str) -> HttpResponse:
    """Return a style sheet, a script or an icon. Browsers may cache it for a year, as its URL has a hash."""
    if name not in _ASSETS or version != _assets()[name][1]:
        raise Http404
    response = HttpResponse(_assets()[name][0], content_type=_ASSETS[name])
    response["Cache-Control"] = "public, max-age=31536000, immutable"
    response["X-Content-Type-Options"] = "nosniff"
    return response


@cache
def _assets() -> dict[str, tuple[bytes, str]]:
    """Return the content of each asset, and a hash of the content as its version."""
    found = {name: (files(__package__) / "assets" / name).read_bytes() for name in _ASSETS}
    return {name: (data, hashlib.sha256(data).hexdigest()[:12]) for name, data in found.items()}


def _page(request: HttpRequest, template: str, context: Mapping[str, Any]) -> HttpResponse:
    style, script, icon = (
        reverse("resilience:asset", args=[version, name], current_app=_space(request))
        for name, (_, version) in _assets().items()
    )
    addresses = {"style": style, "script": script, "icon": icon}
    return render(request, f"resilience/{template}.html", {**context, **addresses})


def _space(request: HttpRequest) -> str:
    match = request.resolver_match
    return match.namespace if match is not None else ""


def _hours(request: HttpRequest) -> int:
    asked = request.GET.get("hours", "")
    return next((hours for hours in HOURS if str(hours) == asked), HOURS[0])


def _card(seen: Fleet, name: str, hours: int) -> dict[str, Any]:
    """Return what the card of a breaker shows."""
    status = seen.breakers[name]
    now = time.time()
    began = now - hours * 3600
    entries = seen.histories.get(name, [])
    spans = timeline(entries, began, now) if entries else timeline(_unknown(status), began, now)
    return shown(status) | {
        "address": address(name),
        "waiting": seen.waiting.get(name, 0),
        "words": printable(word_of(status)),
        "probe": probe_of(status),
        "since": moment(seen.since(name)),
        "bars": [_part(each, began, now) for each in spans],
    }


def _part(spent: Span, began: float, ended: float) -> dict[str, str]:
    """Return a bar of a timeline, wide enough to be visible."""
    scale = _WIDTH / (ended - began)
    width = max(_NARROWEST, scale * (spent.ended - spent.began))
    at = moment(spent.began)
    when = f", from {at['moment']:%H:%M:%S}" if at is not None else ""
    return {
        "state": spent.state,
        "x": f"{min(scale * (spent.began - began), _WIDTH - width):.1f}",
        "width": f"{width:.1f}",
        "says": f"{spent.state.replace('_', ' ')} for {span(spent.ended - spent.began)}{when}",
    }


def _unknown(status: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a history of one entry, made from the status, for a breaker whose history was not read."""
    return [{"at": status["changed_at"] or 0.0, "event": EVENTS[status["state"]], "shadow": False, "ttl": None}]


def _bar(limit: LimitInUse) -> dict[str, Any]:
    """Return what the bar of a limit shows."""
    part = min(1.0, limit.used / limit.allowance)
    return {
        "key": printable(limit.key),
        "limit": limit.limit,
        "algorithm": limit.algorithm.replace("_", " "),
        "used": limit.used,
        "allowance": limit.allowance,
        "width": f"{_WIDTH * part:.0f}",
        "level": "full" if limit.used >= limit.allowance else "high" if part >= 0.8 else "fine",
        "wait": span(limit.retry_after) if limit.retry_after >= 0.5 else "",
    }


def _told(seen: Fleet, part: str) -> list[dict[str, Any]]:
    """Return the latest entries of the histories of all breakers whose name contains ``part``."""
    entries = [
        shown_entry(entry) | {"name": printable(name), "address": address(name)}
        for name, mine in seen.histories.items()
        if part in name
        for entry in mine[:_TOLD]
    ]
    return sorted(entries, key=lambda entry: entry["at"]["moment"], reverse=True)[:_TOLD]


def _act(request: HttpRequest, name: str, form: ControlForm) -> bool:
    """Carry out the action. If the store is unavailable, add the error to the form and return False."""
    action, reason, minutes = (form.cleaned_data[field] for field in ("action", "reason", "minutes"))
    try:
        act(name, action, author=request.user.get_username(), reason=reason, ttl=minutes * 60 if minutes else None)
    except ResilienceError as error:
        form.add_error(None, f"The store is unavailable, so the change may not have been made: {error}")
        return False
    finally:
        looked.forget()
    return True
