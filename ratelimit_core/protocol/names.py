"""Escape names for use in keys, and limit their length."""

from __future__ import annotations

import hashlib
import re

MAX_KEY = 200
"""The maximum length of an escaped name in bytes. A longer name is shortened and ends in a hash of the whole name."""


def known_by(name: str) -> str:
    """Return the name that a listing shows: ``name``, or the shortened form of a name that is too long."""
    stored = escape(name)
    return Hashed(stored) if "%%" in stored else name


class Hashed(str):
    """The shortened form of a name that is too long to be stored. The shortened form also finds the name's record.

    A ``Hashed`` never equals a plain string, because a plain string of the same characters is another name.
    """

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Hashed) and str(self) == str(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__


def hashed(stored: str) -> Hashed:
    """Return ``stored``, the shortened form of a name, as a :class:`Hashed`.

    Raises:
        ValueError: ``stored`` does not have the form of a shortened name, for example because a user edited the name.
    """
    if not _LEFT_OF_LONG.fullmatch(stored):
        raise ValueError(
            f"{stored!r} is not the shortened form of a name: write 100 characters, '%%' and 40 hex digits, as listed"
        )
    return Hashed(stored)


def escape(text: str) -> str:
    """Escape the characters of ``text`` that are not safe in a key.

    Printable ASCII characters are safe, except spaces, colons, per cent signs and braces. In a Redis Cluster, braces in
    a key choose the cluster slot.

    Different texts have different results. A result longer than :data:`MAX_KEY` is shortened and ends in a hash.
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
    """Return the name whose escaped form is ``text``, or a :class:`Hashed` if the name was too long."""
    if "%%" in text:
        return Hashed(text)
    if "%" not in text:
        return text
    parts = text.split("%")
    data = parts[0].encode() + b"".join(bytes([int(part[:2], 16)]) + part[2:].encode() for part in parts[1:])
    return data.decode("utf-8", "surrogatepass")


_UNSAFE = frozenset("{}% :")
_LEFT_OF_LONG = re.compile(r"[!-9;-z|~]{100}%%[0-9a-f]{40}")
