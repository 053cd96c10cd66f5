"""The orders in the admin, read-only. The breakers in the admin come from ``ratelimit_core.django``."""

from typing import TYPE_CHECKING

from django.contrib import admin
from django.http import HttpRequest

from example_worker.models import Order

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Order]
else:  # Django's class can't be subscripted at run time
    ModelAdmin = admin.ModelAdmin


@admin.register(Order)
class OrderAdmin(ModelAdmin):
    list_display = ("id", "customer", "amount", "state", "why", "until", "placed_at")
    list_filter = ("state", "placed_at")
    search_fields = ("id", "customer")

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Return False, because an order without a task would never be charged."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Order | None = None) -> bool:
        """Return False, because only the workers change orders."""
        return False
