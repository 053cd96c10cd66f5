"""The dashboard: which dependency is down, since when, who waits, when the next probe is, and the switch.

``path("resilience/", include("ratelimit_core.django.urls"))`` puts it there. The permission
``ratelimit_core.view_breaker`` is needed to see it, ``ratelimit_core.change_breaker`` to act. It asks the configured
backend, at most once a second for all who look.
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
from ...circuit_breaker.history import EVENTS
from ...errors import ResilienceError
from ...fleet.describe import probe_of, word_of
from ...fleet.status import Fleet, look
from ...fleet.timeline import Span, timeline
from ...fleet.usage import LimitInUse
from .actions import ACTIONS, act, breaker_named
from .forms import ControlForm
from .permissions import ACT, SEE
from .presentation import moment, shown, shown_entry
from .url_names import address, name_at

View = Callable[..., HttpResponse]

HOURS = (1, 6, 24, 72)
"""How far back timelines may go; the first is usual."""
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
"""What the store says now, or said within the last second; longer ago, if it takes long to say."""


def _with_history(seen: Fleet, name: str, entries: list[dict[str, Any]]) -> Fleet:
    """What was seen, with one more history: for all who look from now on, and not under the feet of who does already.

    So it is told of a breaker, too, that has just been reset, and is not in the store any more.
    """
    more = seen._replace(histories={**seen.histories, name: entries})
    looked.replace(seen, more)
    return more


def _guarded(permission: str) -> Callable[[View], View]:
    """Only for who has ``permission``; nobody may keep, frame or add to what they see."""

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
    """All at one look, the worst first; ``?q=`` finds part of a name, ``?hours=`` says how far back timelines go."""
    seen = looked()
    part, hours = request.GET.get("q", ""), _hours(request)
    found = [name for name in seen.worst_first() if part in name]
    by_state = {
        state: sum(status["state"] == state for status in seen.breakers.values())
        for state in ("open", "half_open", "closed")
    }
    context = {
        "away": seen.away,
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
    """One breaker: how it is, what can be done to it, and what became of it."""
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
    away = seen.away
    with suppress(ResilienceError):
        entries = [] if away else breaker_named(name).history()
    seen = _with_history(seen, name, entries)
    context = {
        "name": printable(name),
        "away": away,
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
    """The style sheet and the script, for anybody and for ever: the address changes along with what is in them."""
    if name not in _ASSETS or version != _assets()[name][1]:
        raise Http404
    response = HttpResponse(_assets()[name][0], content_type=_ASSETS[name])
    response["Cache-Control"] = "public, max-age=31536000, immutable"
    response["X-Content-Type-Options"] = "nosniff"
    return response


@cache
def _assets() -> dict[str, tuple[bytes, str]]:
    """What is in each, and its version."""
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
    """A breaker as it is shown."""
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
    """A part of a timeline, wide enough to be seen."""
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
    """A history of one entry, of what the status says."""
    return [{"at": status["changed_at"] or 0.0, "event": EVENTS[status["state"]], "shadow": False, "ttl": None}]


def _bar(limit: LimitInUse) -> dict[str, Any]:
    """A limit as it is shown."""
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
    """The latest entries of all histories."""
    entries = [
        shown_entry(entry) | {"name": printable(name), "address": address(name)}
        for name, mine in seen.histories.items()
        if part in name
        for entry in mine[:_TOLD]
    ]
    return sorted(entries, key=lambda entry: entry["at"]["moment"], reverse=True)[:_TOLD]


def _act(request: HttpRequest, name: str, form: ControlForm) -> bool:
    """Do what was asked; False if the store is away, which the form then says."""
    action, reason, minutes = (form.cleaned_data[field] for field in ("action", "reason", "minutes"))
    try:
        act(name, action, author=request.user.get_username(), reason=reason, ttl=minutes * 60 if minutes else None)
    except ResilienceError as error:
        form.add_error(None, f"Nothing may have changed, because the store is away: {error}")
        return False
    finally:
        looked.forget()
    return True
