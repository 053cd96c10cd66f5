"""Breakers in the admin: how the fleet's are, what became of each, and what a person can do about it.

It asks the configured backend, whichever that is. ``view_breaker`` is needed to see, ``change_breaker`` to act.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse

from .._util.text import printable
from ..circuit_breaker import circuit_breaker_registry
from ..errors import ResilienceError
from ..fleet.describe import urgency
from .breaker_model import Breaker
from .console.actions import ACTIONS, act, breaker_named
from .console.forms import ControlForm
from .console.presentation import shown, shown_entry
from .console.url_names import address

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Breaker]
else:  # Django's own can't be subscripted
    ModelAdmin = admin.ModelAdmin

_SHOWN = 200


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
        found = sorted((urgency(status), name) for name, status in fleet.items() if part in name)
        breakers = [shown(fleet[name]) | {"address": address(name)} for _, name in found[:_SHOWN]]
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
            history = [shown_entry(entry) for entry in guard.history()]
            status = guard.get_status()
            if circuit_breaker_registry.get(name) is None:
                status |= {"failure_threshold": None, "shadow": None}  # how it is defined is not known in this process
            status = shown(status)
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
