"""Texts for people: what others chose, made fit to be shown in a log, on a terminal, in an error; and spans of time."""

from __future__ import annotations

import re

_UNITS = ((86400, "d"), (3600, "h"), (60, "min"))
_CREDENTIALS = re.compile(r":(/*).*@", re.DOTALL)
_PASSWORD = re.compile(
    r"""((?:passw(?:or)?d|passphrase|secret|token)\\*['"]?\s*[=:]\s*(?:b(?=['"]))?)"""
    r"""(\\+(['"]).*?\\+\3|'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|(?:[^&,'"\s}\\]|\\+.)+)""",
    re.IGNORECASE | re.DOTALL,
)
"""A password with what stands before it; in quotes, its own ones have backslashes before them."""


def printable(text: str) -> str:
    r"""``text`` for the eyes: what does not print, and what could order a terminal about, is escaped as ``\x1b``.

    So it is one line.
    """
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def without_secrets(value: object) -> str:
    """The ``repr()`` of a setting, for an error: what a URL says of who connects is left out, and so are passwords."""
    return masked(repr(value))


def masked(text: str) -> str:
    """``text`` of somebody else's, such as an error's: what it says of users and passwords is ``***``."""
    return _PASSWORD.sub(r"\1***", _CREDENTIALS.sub(r":\1***@", text))


def span(seconds: float) -> str:
    """A span of time in the unit that suits it, as ``42 s``, ``5 min``, ``3 h``, ``9 d``."""
    whole = max(round(seconds), 0)
    size, unit = next((each for each in _UNITS if whole >= 2 * each[0]), (1, "s"))
    return f"{whole / size:.0f} {unit}"
