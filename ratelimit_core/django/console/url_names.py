"""What operators read and click: modes, and addresses of names that may hold anything."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ...protocol.names import Hashed, hashed

_UNSAFE = re.compile(rb"[^A-Za-z0-9-]")
_ESCAPED = re.compile(rb"~([0-9A-F]{2})")
_NAMELESS, _HASHED = "~", "~~"


def mode_of(status: Mapping[str, Any]) -> str:
    """The mode that a status tells of; automatic, with the shadow that its settings put it into."""
    shadow = status["mode"] == "automatic" and status["shadow"]
    return f"{status['mode']}, in the shadow" if shadow else str(status["mode"])


def address(name: str) -> str:
    """``name`` as a part of a URL that no server, proxy or browser changes: letters, digits, ``-`` and ``~XX``.

    What is left of a name that was too long begins with ``~~``; no name at all is a lone ``~``.
    """
    data = name.encode("utf-8", "surrogatepass")
    made = _UNSAFE.sub(lambda found: b"~%02X" % found[0][0], data).decode()
    return f"{_HASHED}{made}" if isinstance(name, Hashed) else made or _NAMELESS


def name_at(address: str) -> str:
    """The name that :func:`address` made safe.

    Raises:
        ValueError: it did not make this.
    """
    if address == _NAMELESS:
        return ""
    escaped = address.removeprefix(_HASHED).encode("utf-8", "surrogatepass")
    name = _ESCAPED.sub(lambda found: bytes([int(found[1], 16)]), escaped).decode("utf-8", "surrogatepass")
    return hashed(name) if address.startswith(_HASHED) else name
