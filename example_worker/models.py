"""The table of the orders that were placed on the site."""

from __future__ import annotations

import uuid
from typing import ClassVar

from django.db import models
from django.utils import timezone


class Order(models.Model):
    """An order and its progress. The primary key is also the id of the task that charges the order."""

    class State(models.TextChoices):
        PLACED = "placed"
        WAITING = "waiting"
        CHARGED = "charged"
        FAILED = "failed"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    customer = models.CharField(max_length=100)
    amount = models.DecimalField(max_digits=8, decimal_places=2)
    state = models.CharField(max_length=10, choices=State.choices, default=State.PLACED, db_index=True)
    why = models.CharField(max_length=200, blank=True, help_text="Why the order waits, or has failed.")
    until = models.DateTimeField(null=True, blank=True, help_text="When the order is tried again.")
    placed_at = models.DateTimeField(default=timezone.now, db_index=True)
    changed_at = models.DateTimeField(default=timezone.now)

    objects: ClassVar[models.Manager[Order]] = models.Manager()

    class Meta:
        ordering = ("-placed_at", "id")

    def __str__(self) -> str:
        return f"{self.customer}, {self.amount}"
