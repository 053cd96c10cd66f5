"""Passwords left out of errors and logs."""

from __future__ import annotations

import re

_CREDENTIALS = re.compile(r":(/*).*@", re.DOTALL)
_PASSWORD = re.compile(
    r"""((?:passw(?:or)?d|passphrase|secret|token)\\*['"]?\s*[=:]\s*(?:b(?=['"]))?)"""
    r"""(\\+(['"]).*?\\+\3|'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|(?:[^&,'"\s}\\]|\\+.)+)""",
    re.IGNORECASE | re.DOTALL,
)
"""A password with what stands before it; in quotes, its own ones have backslashes before them."""


def without_secrets(value: object) -> str:
    """The ``repr()`` of a setting, for an error: what a URL says of who connects is left out, and so are passwords."""
    return masked(repr(value))


def masked(text: str) -> str:
    """``text`` of somebody else's, such as an error's: what it says of users and passwords is ``***``."""
    return _PASSWORD.sub(r"\1***", _CREDENTIALS.sub(r":\1***@", text))
