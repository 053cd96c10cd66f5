"""Texts that others chose, made fit to be shown: in a log, on a terminal, in an error."""

from __future__ import annotations

import re

_CREDENTIALS = re.compile(r":(/*).*@", re.DOTALL)
_PASSWORD = re.compile(r"""((?:password|secret|token)['"]?\s*[=:]\s*)('[^']*'|"[^"]*"|[^&,'"\s}]+)""", re.IGNORECASE)


def printable(text: str) -> str:
    r"""``text`` for the eyes: what does not print, and what could order a terminal about, is escaped as ``\x1b``.

    So it is one line.
    """
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def without_secrets(value: object) -> str:
    """The ``repr()`` of a setting, for an error: what a URL says of who connects is left out, and so are passwords."""
    return _PASSWORD.sub(r"\1***", _CREDENTIALS.sub(r":\1***@", repr(value)))
