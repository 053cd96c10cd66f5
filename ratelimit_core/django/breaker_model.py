"""What the admin's permissions on breakers hang on. There is no table: breakers are in the store, whichever that is."""

from __future__ import annotations

from django.db import models

from .._util.text import printable
from .console.url_names import name_at


class Breaker(models.Model):
    """A breaker, as the admin speaks of it. Its key is its name, made safe for any URL."""

    address: models.TextField[str, str] = models.TextField(primary_key=True)

    class Meta:
        """Seen with ``view_breaker``, controlled with ``change_breaker``."""

        app_label = "ratelimit_core"
        managed = False
        default_permissions = ("view", "change")
        verbose_name = "breaker"
        verbose_name_plural = "breakers"

    def __str__(self) -> str:
        return printable(self.name)

    @property
    def name(self) -> str:
        """What the breaker is called."""
        return name_at(self.address)
