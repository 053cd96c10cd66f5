"""Redact passwords in errors and logs."""

from __future__ import annotations

import re

_CREDENTIALS = re.compile(r":(/*).*@", re.DOTALL)
_PASSWORD = re.compile(
    r"""((?:passw(?:or)?d|passphrase|secret|token)\\*['"]?\s*[=:]\s*(?:b(?=['"]))?)"""
    r"""(\\+(['"]).*?\\+\3|'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|(?:[^&,'"\s}\\]|\\+.)+)""",
    re.IGNORECASE | re.DOTALL,
)
"""A password with the text before it. Inside a quoted string the password's own quotes are escaped with backslashes."""


def without_secrets(value: object) -> str:
    """Return the ``repr()`` of a setting for an error, without the credentials of URLs and without passwords."""
    return masked(repr(value))


def masked(text: str) -> str:
    """Return ``text``, such as another library's error, with ``***`` in place of credentials and passwords."""
    return _PASSWORD.sub(r"\1***", _CREDENTIALS.sub(r":\1***@", text))
