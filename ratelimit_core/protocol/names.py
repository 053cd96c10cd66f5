"""Write names into keys: escaped, and bounded in length."""

from __future__ import annotations

import hashlib
import re

MAX_KEY = 200
"""The greatest length of an escaped name in bytes. A longer one is cut and ends in a hash of the whole."""


def known_by(name: str) -> str:
    """Return the name as a listing shows it: ``name``, or its shortened form if it is too long."""
    stored = escape(name)
    return Hashed(stored) if "%%" in stored else name


class Hashed(str):
    """The shortened form of a name that is too long to be stored. Its record can be found again by it.

    It never equals a plain string: the same characters as a plain string are another name.
    """

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Hashed) and str(self) == str(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__


def hashed(stored: str) -> Hashed:
    """Return the shortened form of a name from ``stored``, which comes from a listing and may have been edited since.

    Raises:
        ValueError: :func:`escape` shortens no name to ``stored``.
    """
    if not _LEFT_OF_LONG.fullmatch(stored):
        raise ValueError(f"{stored!r} is not the shortened form of a name: 100 characters, '%%' and 40 hex digits")
    return Hashed(stored)


def escape(text: str) -> str:
    """Make ``text`` safe inside a key: without braces (they choose the cluster slot), spaces and control characters.

    Different texts have different results. A result longer than :data:`MAX_KEY` is cut and hashed.
    """
    if isinstance(text, Hashed):
        return str(text)
    if text.isascii() and len(text) <= MAX_KEY and text.isprintable() and not _UNSAFE.intersection(text):
        return text
    data = text.encode("utf-8", "surrogatepass")
    start = data[: MAX_KEY + 1]
    safe = "".join(chr(b) if 33 <= b <= 126 and chr(b) not in _UNSAFE else f"%{b:02X}" for b in start)
    if len(safe) > MAX_KEY:
        safe = f"{safe[:100]}%%{hashlib.sha256(data).hexdigest()[:40]}"
    return safe


def unescape(text: str) -> str:
    """Return the name that was escaped, or a :class:`Hashed` for one that was too long."""
    if "%%" in text:
        return Hashed(text)
    if "%" not in text:
        return text
    parts = text.split("%")
    data = parts[0].encode() + b"".join(bytes([int(part[:2], 16)]) + part[2:].encode() for part in parts[1:])
    return data.decode("utf-8", "surrogatepass")


_UNSAFE = frozenset("{}% :")
_LEFT_OF_LONG = re.compile(r"[!-9;-z|~]{100}%%[0-9a-f]{40}")
