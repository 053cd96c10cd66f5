"""The tables of the database backend, and the model for the admin's permissions.

The backend reads and writes its tables with its own SQL, not through these models.
"""

from __future__ import annotations

from django.db import models

from ..backends.database.sql import LEASES, RECORDS
from .breaker_model import Breaker

__all__ = ["Breaker", "Lease", "Record"]


class Record(models.Model):
    """The record of one key, with times in µs. See :mod:`ratelimit_core.backends.database.sql`."""

    id = models.CharField(max_length=64, primary_key=True)
    prefix = models.CharField(max_length=64)
    policy = models.CharField(max_length=64)
    name = models.CharField(max_length=200)
    qualifier = models.CharField(max_length=200)
    version = models.IntegerField()
    expires = models.BigIntegerField()
    data = models.TextField()
    kept_until = models.BigIntegerField()

    class Meta:
        """The indexes serve listing by policy, and pruning by the end of records."""

        db_table = RECORDS
        default_permissions = ()
        indexes = (
            models.Index(fields=["prefix", "policy"], name="ratelimit_core_record_policy"),
            models.Index(fields=["kept_until"], name="ratelimit_core_record_until"),
        )

    def __str__(self) -> str:
        return f"{self.policy} {self.name} {self.qualifier}".rstrip()


class Lease(models.Model):
    """A lease of a record. ``ends`` is in µs."""

    id = models.BigAutoField(primary_key=True)
    record = models.CharField(max_length=64)
    owner = models.CharField(max_length=64)
    part = models.IntegerField()
    ends = models.BigIntegerField()

    class Meta:
        """There is no foreign key, because transactions lock the record's row before they touch its leases."""

        db_table = LEASES
        default_permissions = ()
        indexes = (
            models.Index(fields=["record", "ends"], name="ratelimit_core_lease_ends"),
            models.Index(fields=["record", "owner"], name="ratelimit_core_lease_owner"),
        )

    def __str__(self) -> str:
        return f"{self.record[:8]} {self.owner}".rstrip()
