"""A model without a table, for the admin's permissions on breakers. The breakers themselves are in the store."""

from __future__ import annotations

from django.db import models

from .._util.text import printable
from .console.url_names import name_at


class Breaker(models.Model):
    """A breaker in the admin. The primary key is the breaker's name, escaped for URLs."""

    address: models.TextField[str, str] = models.TextField(primary_key=True)

    class Meta:
        """The permissions are ``view_breaker`` to see a breaker, and ``change_breaker`` to act on it."""

        app_label = "ratelimit_core"
        managed = False
        default_permissions = ("view", "change")
        verbose_name = "breaker"
        verbose_name_plural = "breakers"

    def __str__(self) -> str:
        return printable(self.name)

    @property
    def name(self) -> str:
        """The name of the breaker."""
        return name_at(self.address)
