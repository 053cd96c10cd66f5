"""Breakers in the admin: how the fleet's are, what became of each, and what a person can do about it.

It asks the configured backend, whichever that is. ``view_breaker`` is needed to see, ``change_breaker`` to act.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone

from ..circuit_breaker import circuit_breaker_registry
from ..errors import ResilienceError
from ..texts import printable
from .breaker_model import Breaker
from .control import ACTIONS, act, breaker_named
from .words import address, mode_of, span

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Breaker]
else:  # Django's own can't be subscripted
    ModelAdmin = admin.ModelAdmin

_URGENCY = {"open": 0, "half_open": 1, "closed": 2}
_SHOWN = 200


class ControlForm(forms.Form):
    """What whoever acts on a breaker has to say."""

    action = forms.ChoiceField(choices=[(name, action.label) for name, action in ACTIONS.items()])
    reason = forms.CharField(
        max_length=500,
        help_text="It is kept in the history, with your name.",
        widget=forms.TextInput({"class": "vTextField"}),
    )
    minutes = forms.IntegerField(
        label="For how many minutes",
        required=False,
        min_value=1,
        max_value=400 * 24 * 60,
        help_text="Then it is automatic again. Leave it empty for: until somebody ends it.",
        widget=forms.NumberInput({"class": "vIntegerField"}),
    )

    def clean(self) -> dict[str, Any]:
        """An end belongs to what lasts."""
        data = super().clean() or {}
        action = ACTIONS.get(data.get("action", ""))
        if action and data.get("minutes") and not action.may_end:
            self.add_error("minutes", f"“{action.label}” is done at once: leave this empty.")
        return data


@admin.register(Breaker)
class BreakerAdmin(ModelAdmin):
    """The fleet's breakers. They are in the store, so the database is asked for nothing but who may see them."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        """A breaker is made by the code that uses it."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Breaker | None = None) -> bool:
        """A breaker that nobody uses goes by itself."""
        return False

    def get_urls(self) -> list[URLPattern]:
        """The list, and a page for each breaker."""
        wrap = self.admin_site.admin_view
        return [
            path("", wrap(self.fleet_view), name="ratelimit_core_breaker_changelist"),
            path("<str:address>/change/", wrap(self.breaker_view), name="ratelimit_core_breaker_change"),
        ]

    def fleet_view(self, request: HttpRequest) -> HttpResponse:
        """The breakers that the store lists, the open and the forced ones first; ``?q=`` finds part of a name."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        fleet: dict[str, dict[str, Any]] = {}
        away = ""
        try:
            fleet = circuit_breaker_registry.get_fleet_status()
        except ResilienceError as error:
            away = str(error)
        part = request.GET.get("q", "")
        found = sorted((_urgency(status), name) for name, status in fleet.items() if part in name)
        breakers = [_shown(fleet[name]) | {"address": address(name)} for _, name in found[:_SHOWN]]
        numbers = {"total": len(fleet), "found": len(found), "part": printable(part)}
        return self._page(request, "fleet", {"title": "Breakers", "breakers": breakers, "away": away, **numbers})

    def breaker_view(self, request: HttpRequest, address: str) -> HttpResponse:
        """One breaker: its status, what can be done to it, and its history."""
        breaker = Breaker(address)
        try:
            name = breaker.name
        except ValueError as error:
            raise Http404(f"no breaker has the address {address!r}") from error
        may_act = self.has_change_permission(request, breaker)
        if not (self.has_view_permission(request, breaker) and (may_act or request.method != "POST")):
            raise PermissionDenied
        form = ControlForm(request.POST or None)
        if request.method == "POST" and form.is_valid() and self._act(request, breaker, form):
            return HttpResponseRedirect(
                reverse("admin:ratelimit_core_breaker_change", args=[address], current_app=self.admin_site.name)
            )
        status: dict[str, Any] | None = None
        history: list[dict[str, Any]] = []
        away = ""
        try:
            guard = breaker_named(name)
            history = [_entry(entry) for entry in guard.history()]
            status = guard.get_status()
            if circuit_breaker_registry.get(name) is None:
                status |= {"failure_threshold": None, "shadow": None}  # how it is defined is not known in this process
            status = _shown(status)
        except ResilienceError as error:
            away = str(error)
        context = {
            "title": str(breaker),
            "status": status,
            "history": history,
            "away": away,
            "form": form if may_act else None,
            "actions": ACTIONS,
        }
        return self._page(request, "breaker", context)

    def _act(self, request: HttpRequest, breaker: Breaker, form: ControlForm) -> bool:
        """Do what was asked, and log it; False if the store is away, which the form then says."""
        action, reason, minutes = (form.cleaned_data[field] for field in ("action", "reason", "minutes"))
        ttl = minutes * 60 if minutes else None
        try:
            act(breaker.name, action, author=request.user.get_username(), reason=reason, ttl=ttl)
        except ResilienceError as error:
            form.add_error(None, f"Nothing may have changed, because the store is away: {error}")
            return False
        done = f"{ACTIONS[action].label}{f' for {minutes} min' if minutes else ''}: {reason}"
        self.log_change(request, breaker, done)
        messages.success(request, f"Breaker {breaker}: {done}")
        return True

    def _page(self, request: HttpRequest, template: str, context: dict[str, Any]) -> TemplateResponse:
        request.current_app = self.admin_site.name  # as ModelAdmin does
        common = {**self.admin_site.each_context(request), "opts": self.opts}
        return TemplateResponse(request, f"admin/ratelimit_core/breaker/{template}.html", common | context)


def _urgency(status: dict[str, Any]) -> tuple[int, bool]:
    return _URGENCY[status["state"]], status["mode"] == "automatic"


def _shown(status: dict[str, Any]) -> dict[str, Any]:
    """``status`` with times and texts that a page can show."""
    times = {
        name: _time(status[name]) for name in ("changed_at", "last_failure_time", "next_attempt_time", "mode_until")
    }
    texts = {name: printable(status[name]) for name in ("name", "author", "reason")}
    words = {"state_word": status["state"].replace("_", "-"), "mode_word": mode_of(status).replace("_", " ")}
    return status | times | texts | words


def _entry(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry of a history with times and texts that a page can show."""
    return {
        "at": _time(entry["at"]),
        "event": entry["event"].replace("_", " ") + (" in the shadow" if entry["shadow"] else ""),
        "author": printable(entry["author"]),
        "reason": printable(entry["reason"]),
        "failure_count": entry["failure_count"] or "",
        "lasts": span(entry["ttl"] or entry["retry_after"]) if entry["ttl"] or entry["retry_after"] else "",
    }


def _time(seconds: float | None) -> dict[str, Any] | None:
    """A moment, and how far off it is."""
    if seconds is None:
        return None
    off = seconds - time.time()
    moment = timezone.localtime(datetime.fromtimestamp(seconds, UTC))
    return {"moment": moment, "off": f"in {span(off)}" if off > 0 else f"{span(-off)} ago"}
