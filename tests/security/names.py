"""Names that a stranger may think of."""

from __future__ import annotations

from ratelimit_core.protocol.names import escape

_LONG = "é*" * 500_000

HOSTILE = {
    "everything, to KEYS": "*",
    "a class, to KEYS": "[a-z]?*",
    "an index": "index:breaker",
    "leases": "a:leases",
    "Lua": "'] redis.call('FLUSHALL') --",
    "Lua, in long brackets": "]==]..redis.call('FLUSHALL')..[==[",
    "Redis's protocol": "x\r\n*1\r\n$8\r\nFLUSHALL\r\n",
    "SQL": "'; DROP TABLE ratelimit_core_record; --",
    "SQL, quoted otherwise": '"; DELETE FROM ratelimit_core_lease; $$',
    "formats": "%s %(x)s %d {0} {x!r}",
    "a header": "a\r\nSet-Cookie: admin=1",
    "a line": "a\n2026-01-01 CRITICAL all is lost",
    "orders to a terminal": "\x1b[2J\x1b]0;title\x07",
    "right to left": "a\u202eb",
    "a line to Unicode": "a\u2028b\x85c",
    "NUL": "\x00",
    "NUL inside": "a\x00b",
    "half a character": "\ud800",
    "the other half": "a\udfff",
    "nothing but braces": "{}",
    "a hash tag": "{payments}",
    "an open brace": "}{",
    "what is escaped": "%2A",
    "what is escaped twice": "%252A",
    "a long name": "x" * 300,
    "the same, as it is stored": escape("x" * 300),
    "a space": " ",
    "a space at the end": "a ",
    "small": "payments",
    "capital": "PAYMENTS",
    "composed": "\u00e9",
    "decomposed": "e\u0301",
    "one byte too long": "x" * 201,
    "a megabyte": _LONG,
    "another megabyte": _LONG + "x",
}
"""By what each tries to be. No two are the same, and all are different for everybody."""
