"""Breakers in Django's admin: their state, their history, and the actions of operators.

The pages read from the configured backend. Operators need ``view_breaker`` to see breakers, and ``change_breaker`` to
act on them.
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
from .console.actions import ACTIONS, act
from .console.forms import ControlForm
from .console.presentation import shown, shown_entry
from .console.url_names import address

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Breaker]
else:  # Django's class can't be subscripted at run time
    ModelAdmin = admin.ModelAdmin

_SHOWN = 200


@admin.register(Breaker)
class BreakerAdmin(ModelAdmin):
    """The breakers of the fleet, read from the store. The database has only permissions and the log of actions."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Return False, because the code that uses a breaker creates it."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Breaker | None = None) -> bool:
        """Return False, because the store forgets unused breakers by itself."""
        return False

    def get_urls(self) -> list[URLPattern]:
        """Return the URLs of the list of breakers and of the page of one breaker."""
        wrap = self.admin_site.admin_view
        return [
            path("", wrap(self.fleet_view), name="ratelimit_core_breaker_changelist"),
            path("<str:address>/change/", wrap(self.breaker_view), name="ratelimit_core_breaker_change"),
        ]

    def fleet_view(self, request: HttpRequest) -> HttpResponse:
        """Show the breakers that the store lists, open ones first. ``?q=`` filters by a part of the name."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        fleet: dict[str, dict[str, Any]] = {}
        unavailable = ""
        try:
            fleet = circuit_breaker_registry.get_fleet_status()
        except ResilienceError as error:
            unavailable = str(error)
        part = request.GET.get("q", "")
        found = sorted((urgency(status), name) for name, status in fleet.items() if part in name)
        breakers = [shown(fleet[name]) | {"address": address(name)} for _, name in found[:_SHOWN]]
        numbers = {"total": len(fleet), "found": len(found), "part": printable(part)}
        return self._page(
            request, "fleet", {"title": "Breakers", "breakers": breakers, "unavailable": unavailable, **numbers}
        )

    def breaker_view(self, request: HttpRequest, address: str) -> HttpResponse:
        """Show one breaker: its status, the actions of operators, and its history."""
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
        unavailable = ""
        try:
            guard = circuit_breaker_registry.refer(name)
            history = [shown_entry(entry) for entry in guard.history()]
            status = guard.get_status()
            if circuit_breaker_registry.get(name) is None:
                # This process does not know the settings of the breaker.
                status |= {"failure_threshold": None, "shadow": None}
            status = shown(status)
        except ResilienceError as error:
            unavailable = str(error)
        context = {
            "title": str(breaker),
            "status": status,
            "history": history,
            "unavailable": unavailable,
            "form": form if may_act else None,
            "actions": ACTIONS,
        }
        return self._page(request, "breaker", context)

    def _act(self, request: HttpRequest, breaker: Breaker, form: ControlForm) -> bool:
        """Carry out the action and log it. If the store is unavailable, add the error to the form and return False."""
        action, reason, minutes = (form.cleaned_data[field] for field in ("action", "reason", "minutes"))
        ttl = minutes * 60 if minutes else None
        try:
            act(breaker.name, action, author=request.user.get_username(), reason=reason, ttl=ttl)
        except ResilienceError as error:
            form.add_error(None, f"The store is unavailable, so the change may not have been made: {error}")
            return False
        done = f"{ACTIONS[action].label}{f' for {minutes} min' if minutes else ''}: {reason}"
        self.log_change(request, breaker, done)
        messages.success(request, f"Breaker {breaker}: {done}")
        return True

    def _page(self, request: HttpRequest, template: str, context: dict[str, Any]) -> TemplateResponse:
        request.current_app = self.admin_site.name  # so that `{% url 'admin:...' %}` finds this admin site
        common = {**self.admin_site.each_context(request), "opts": self.opts}
        return TemplateResponse(request, f"admin/ratelimit_core/breaker/{template}.html", common | context)
