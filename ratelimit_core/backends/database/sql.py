"""The rows of the database backend, and the queries that read them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from ..._util.clock import SECOND
from ...protocol.call import Call, Key
from ...protocol.names import escape

RECORDS = "ratelimit_core_record"
LEASES = "ratelimit_core_lease"

BATCH = 500
"""The maximum number of rows that one statement reads or writes."""

NO_OWNER = ""
"""The owner of leases that can't be found by a lease id any more."""

MAX_OVERSTAY = 10 * 365 * 86400 * SECOND
"""The maximum time in µs that a row is kept longer than needed.

If a row is kept even longer, its record had no end before, for example because a breaker's override had no end.
"""

Parameters = list[str | int]


class Row(NamedTuple):
    """A stored record. Times are in µs."""

    id: str
    prefix: str
    policy: str
    name: str
    qualifier: str
    version: int = 0
    expires: int = 0
    data: str = ""
    kept_until: int = 0

    def kept(self, until: int, now: int) -> Row:
        """Return the row, kept at least until ``until``.

        The new ``kept_until`` is later than needed, so that the column and its index change less often.
        """
        return self if until <= self.kept_until else self._replace(kept_until=2 * until - now)

    def overstays(self, until: int, now: int) -> bool:
        """Return whether ``kept_until`` is more than :data:`MAX_OVERSTAY` too late for a row that ends at ``until``."""
        return self.kept_until > 2 * until - now + MAX_OVERSTAY


COLUMNS = ", ".join(Row._fields)
_CHANGING = ("version", "expires", "data", "kept_until")


def collation_safe(text: str) -> str:
    """Return ``text`` escaped. Return its digest if the escaped text is empty, has over 64 characters, or has capitals.

    A collation that ignores case would confuse two texts that differ only in capitals.
    """
    safe = escape(text)
    return safe if 0 < len(safe) <= 64 and safe == safe.lower() else _digest(text)


def row(prefix: str, policy: str, key: Key) -> Row:
    """Return the row of a record, without the record's data.

    Args:
        prefix: a result of :func:`collation_safe`.
    """
    name, qualifier = escape(key[0]), escape(key[1])  # without colons, so that no two keys have the same id
    return Row(_digest(f"{prefix}:{policy}:{name}:{qualifier}"), prefix, policy, name, qualifier)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def placeholders(values: Sequence[object]) -> str:
    """Return ``(%s, %s, ...)``."""
    return f"({', '.join(['%s'] * len(values))})"


_OF = f"FROM {LEASES} WHERE record = %s"
_READS = {
    # the facts in `policies.LEASES`
    "active": f"SELECT COUNT(*) {_OF} AND ends > {{now}}",
    "ending_in_period": f"SELECT COUNT(*) {_OF} AND ends > {{now}} AND ends <= {{now}} + {{period}}",
    "first_end": f"SELECT MIN(ends) {_OF} AND ends > {{now}}",
    "last_end": f"SELECT MAX(ends) {_OF}",
    "capacity_at": f"SELECT ends {_OF} ORDER BY ends DESC LIMIT 1 OFFSET {{spare}}",
    "own_end": f"SELECT ends {_OF} AND owner = %s AND part = 1 ORDER BY ends DESC LIMIT 1",
    # needed to write leases
    "oldest": f"SELECT MIN(ends) {_OF}",
}
ENDS = frozenset(["first_end", "last_end", "capacity_at", "own_end"])
"""Reads that return a time. A time in the past counts as 0."""


def reads(call: Call) -> tuple[str, ...]:
    """Return the names of the reads that ``call`` needs, as keys of ``_READS``."""
    return tuple(dict.fromkeys((*call.policy.leases, "own_end", "oldest"))) if call.policy.leases else ()


def lease_query(calls: Sequence[Call], rows: Sequence[Row], now: str, latest: str) -> tuple[str, Parameters]:
    """Return a SELECT of one row: the time, then the results of the :func:`reads` of each call."""
    columns, parameters = [now], Parameters()
    for call, row in zip(calls, rows, strict=True):
        values = dict(zip(call.policy.config + call.policy.event, call.config + call.event, strict=True))
        for name in reads(call):
            read = _READS[name].format(now=now, spare=values.get(call.policy.spare), period=values.get("period"))
            columns.append(f"({read}{latest})")
            parameters += (row.id, collation_safe(call.lease_id)) if name == "own_end" else (row.id,)
    return f"SELECT {', '.join(columns)}", parameters


def keys_query(now: str, most: int | None) -> str:
    """Return a SELECT of at most ``most`` keys in use. Its parameters are a prefix and the name of a policy."""
    leases = f"SELECT 1 FROM {LEASES} WHERE {LEASES}.record = {RECORDS}.id AND {LEASES}.ends > {now}"
    return (
        f"SELECT name, qualifier FROM {RECORDS} WHERE prefix = %s AND policy = %s AND kept_until > {now}"
        f" AND (expires > {now} OR EXISTS ({leases}))" + ("" if most is None else f" LIMIT {most}")
    )


def data_query(now: str) -> str:
    """Return a SELECT of the data of one record. Its parameter is the id."""
    return f"SELECT data FROM {RECORDS} WHERE id = %s AND expires > {now}"
