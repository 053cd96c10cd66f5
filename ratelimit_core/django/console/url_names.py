"""Breakers' names in URLs, and modes in words, for the pages of operators. A name may contain any character."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ...protocol.names import Hashed, hashed

_UNSAFE = re.compile(rb"[^A-Za-z0-9-]")
_ESCAPED = re.compile(rb"~([0-9A-F]{2})")
_NAMELESS, _HASHED = "~", "~~"


def mode_of(status: Mapping[str, Any]) -> str:
    """Return the mode of a status in words, and shadow mode if the breaker's settings turn it on."""
    shadow = status["mode"] == "automatic" and status["shadow"]
    return f"{status['mode']}, in shadow mode" if shadow else str(status["mode"])


def address(name: str) -> str:
    """Return ``name`` as a part of a URL, made of letters, digits, ``-`` and ``~XX``.

    No server, proxy or browser changes such a part. The shortened form of a long name begins with ``~~``. The empty
    name is a single ``~``.
    """
    data = name.encode("utf-8", "surrogatepass")
    made = _UNSAFE.sub(lambda found: b"~%02X" % found[0][0], data).decode()
    return f"{_HASHED}{made}" if isinstance(name, Hashed) else made or _NAMELESS


def name_at(address: str) -> str:
    """Return the name of an :func:`address`.

    Raises:
        ValueError: the address is not valid UTF-8, or begins with ``~~`` but has no shortened form of a name.
    """
    if address == _NAMELESS:
        return ""
    escaped = address.removeprefix(_HASHED).encode("utf-8", "surrogatepass")
    name = _ESCAPED.sub(lambda found: bytes([int(found[1], 16)]), escaped).decode("utf-8", "surrogatepass")
    return hashed(name) if address.startswith(_HASHED) else name
