"""Redact credentials and passwords in errors and logs."""

from __future__ import annotations

import re

_CREDENTIALS = re.compile(r":(/*).*@", re.DOTALL)
_PASSWORD = re.compile(
    r"""((?:passw(?:or)?d|passphrase|secret|token)\\*['"]?\s*[=:]\s*(?:b(?=['"]))?)"""
    r"""(\\+(['"]).*?\\+\3|'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|(?:[^&,'"\s}\\]|\\+.)+)""",
    re.IGNORECASE | re.DOTALL,
)
"""A password in a text, in two groups: its name with the ``=`` or ``:``, and the password itself.

If the text was quoted, backslashes escape the quotes around the password.
"""


def without_secrets(value: object) -> str:
    """Return the ``repr()`` of ``value`` with passwords and the credentials of URLs masked, for an error message."""
    return masked(repr(value))


def masked(text: str) -> str:
    """Return ``text`` with ``***`` in place of passwords and the credentials of URLs."""
    return _PASSWORD.sub(r"\1***", _CREDENTIALS.sub(r":\1***@", text))
