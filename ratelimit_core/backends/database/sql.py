"""The rows of the database backend, and the SQL that reads them."""

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
"""Rows in one statement at most."""

NOBODY = ""
"""The owner of a lease that no ticket names any more."""

AGES = 10 * 365 * 86400 * SECOND
"""So much longer than it has to be nothing is kept: what was to last for ever, as a mode that was forced, may end."""

Parameters = list[str | int]


class Row(NamedTuple):
    """A record as it is stored."""

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
        """Kept until then; so much longer that this, which is indexed, need not be moved each time."""
        return self if until <= self.kept_until else self._replace(kept_until=2 * until - now)

    def kept_for_ages(self, until: int, now: int) -> bool:
        """Whether it is kept for ages beyond what would do until then."""
        return self.kept_until > 2 * until - now + AGES


COLUMNS = ", ".join(Row._fields)
_CHANGING = ("version", "expires", "data", "kept_until")


def foldless(text: str) -> str:
    """``text`` for a column that is compared: many collations don't tell capitals apart, so such texts are digests."""
    safe = escape(text)
    return safe if 0 < len(safe) <= 64 and safe == safe.lower() else _digest(text)


def row(prefix: str, policy: str, key: Key) -> Row:
    """The row of a record that has never been written. ``prefix`` went through :func:`foldless`."""
    name, qualifier = escape(key[0]), escape(key[1])  # no colons in any of them: no two keys are joined alike
    return Row(_digest(f"{prefix}:{policy}:{name}:{qualifier}"), prefix, policy, name, qualifier)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def places(values: Sequence[object]) -> str:
    """``(%s, %s, ...)``."""
    return f"({', '.join(['%s'] * len(values))})"


_OF = f"FROM {LEASES} WHERE record = %s"
_READS = {
    # what policies may want to know, see `policies.LEASES`
    "held": f"SELECT COUNT(*) {_OF} AND ends > {{now}}",
    "current": f"SELECT COUNT(*) {_OF} AND ends > {{now}} AND ends <= {{now}} + {{period}}",
    "next_end": f"SELECT MIN(ends) {_OF} AND ends > {{now}}",
    "newest": f"SELECT MAX(ends) {_OF}",
    "room_at": f"SELECT ends {_OF} ORDER BY ends DESC LIMIT 1 OFFSET {{slots}}",
    "mine": f"SELECT ends {_OF} AND owner = %s AND part = 1 ORDER BY ends DESC LIMIT 1",
    # what is needed to write leases
    "first": f"SELECT MIN(ends) {_OF}",
}
ENDS = frozenset(["next_end", "newest", "room_at", "mine"])
"""Reads whose answer is a time, and counts as none once that has come."""


def reads(call: Call) -> tuple[str, ...]:
    """What has to be read of the leases of ``call``."""
    return tuple(dict.fromkeys((*call.policy.leases, "mine", "first"))) if call.policy.leases else ()


def look(calls: Sequence[Call], rows: Sequence[Row], now: str, latest: str) -> tuple[str, Parameters]:
    """One SELECT of one row: the time, then all that each of ``calls`` reads of its leases."""
    columns, parameters = [now], Parameters()
    for call, row in zip(calls, rows, strict=True):
        values = dict(zip(call.policy.config + call.policy.event, call.config + call.event, strict=True))
        for name in reads(call):
            read = _READS[name].format(now=now, slots=values.get("slots"), period=values.get("period"))
            columns.append(f"({read}{latest})")
            parameters += (row.id, foldless(call.ticket)) if name == "mine" else (row.id,)
    return f"SELECT {', '.join(columns)}", parameters


def listing(now: str, most: int | None) -> str:
    """The keys that are in use, of a prefix and policy, ``most`` at most."""
    leases = f"SELECT 1 FROM {LEASES} WHERE {LEASES}.record = {RECORDS}.id AND {LEASES}.ends > {now}"
    return (
        f"SELECT name, qualifier FROM {RECORDS} WHERE prefix = %s AND policy = %s AND kept_until > {now}"
        f" AND (expires > {now} OR EXISTS ({leases}))" + ("" if most is None else f" LIMIT {most}")
    )


def reading(now: str) -> str:
    """The data of the record of an id."""
    return f"SELECT data FROM {RECORDS} WHERE id = %s AND expires > {now}"
