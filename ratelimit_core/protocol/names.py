"""How names are written into keys: escaped, and bounded in length."""

from __future__ import annotations

import hashlib
import re

MAX_KEY = 200
"""Names longer than this many bytes are cut, and end in a hash of the whole."""


def known_by(name: str) -> str:
    """What a name is known by, to who may have it from a listing: itself, or what is left of it if that is too long."""
    stored = escape(name)
    return Hashed(stored) if "%%" in stored else name


class Hashed(str):
    """What is left of a name that was too long to be stored. Asked for by this, its record is found again.

    It equals no text that somebody else may write: that would be another name.
    """

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Hashed) and str(self) == str(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__


def hashed(stored: str) -> Hashed:
    """A name that was too long, of what a listing gave of it and somebody may have changed since.

    Raises:
        ValueError: :func:`escape` leaves no such thing of any name.
    """
    if not _LEFT_OF_LONG.fullmatch(stored):
        raise ValueError(f"no name was cut to {stored!r}")
    return Hashed(stored)


def escape(text: str) -> str:
    """Make ``text`` safe inside a key: no braces (they would choose the slot), spaces or control characters.

    Injective; bounded by hashing what is longer than :data:`MAX_KEY`.
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
    """The name that was escaped; of a hashed one, what is left of it."""
    if "%%" in text:
        return Hashed(text)
    if "%" not in text:
        return text
    parts = text.split("%")
    data = parts[0].encode() + b"".join(bytes([int(part[:2], 16)]) + part[2:].encode() for part in parts[1:])
    return data.decode("utf-8", "surrogatepass")


_UNSAFE = frozenset("{}% :")
_LEFT_OF_LONG = re.compile(r"[!-9;-z|~]{100}%%[0-9a-f]{40}")
