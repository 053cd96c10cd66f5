"""What operators read and click: modes, and addresses of names that may hold anything."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_UNSAFE = re.compile(rb"[^A-Za-z0-9-]")
_ESCAPED = re.compile(rb"~([0-9A-F]{2})")


def mode_of(status: Mapping[str, Any]) -> str:
    """The mode that a status tells of; automatic, with the shadow that its settings put it into."""
    shadow = status["mode"] == "automatic" and status["shadow"]
    return f"{status['mode']}, in the shadow" if shadow else str(status["mode"])


def address(name: str) -> str:
    """``name`` as a part of a URL that no server, proxy or browser changes: letters, digits, ``-`` and ``~XX``."""
    data = name.encode("utf-8", "surrogatepass")
    return _UNSAFE.sub(lambda found: b"~%02X" % found[0][0], data).decode()


def name_at(address: str) -> str:
    """The name that :func:`address` made safe.

    Raises:
        ValueError: it did not make this.
    """
    data = _ESCAPED.sub(lambda found: bytes([int(found[1], 16)]), address.encode("utf-8", "surrogatepass"))
    return data.decode("utf-8", "surrogatepass")
