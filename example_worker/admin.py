"""Orders in the admin, to be looked at. Breakers are there too: ``ratelimit_core.django`` brings them along."""

from typing import TYPE_CHECKING

from django.contrib import admin
from django.http import HttpRequest

from example_worker.models import Order

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Order]
else:  # Django's own can't be subscripted
    ModelAdmin = admin.ModelAdmin


@admin.register(Order)
class OrderAdmin(ModelAdmin):
    list_display = ("id", "customer", "amount", "state", "why", "until", "placed_at")
    list_filter = ("state", "placed_at")
    search_fields = ("id", "customer")

    def has_add_permission(self, request: HttpRequest) -> bool:
        """An order without a task would never be charged."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Order | None = None) -> bool:
        """The workers do."""
        return False
