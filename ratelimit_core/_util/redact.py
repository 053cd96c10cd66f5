"""Redact credentials and passwords in errors and logs."""

from __future__ import annotations

import re

_CREDENTIALS = re.compile(r":(/*).*@", re.DOTALL)
_PASSWORD = re.compile(
    r"""((?:passw(?:or)?d|passphrase|secret|token)\\*['"]?\s*[=:]\s*(?:b(?=['"]))?)"""
    r"""(\\+(['"]).*?\\+\3|'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|(?:[^&,'"\s}\\]|\\+.)+)""",
    re.IGNORECASE | re.DOTALL,
)
"""Two groups: the name of a password with its ``=`` or ``:``, and the password.

If the text is itself a quoted string, backslashes escape the quotes around the password.
"""


def without_secrets(value: object) -> str:
    """Return the ``repr()`` of ``value``, for an error. Passwords and the credentials in URLs are masked."""
    return masked(repr(value))


def masked(text: str) -> str:
    """Return ``text`` with ``***`` in place of credentials and passwords. The text may be another library's error."""
    return _PASSWORD.sub(r"\1***", _CREDENTIALS.sub(r":\1***@", text))
