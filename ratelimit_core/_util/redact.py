"""Redact credentials and passwords in errors and logs."""

from __future__ import annotations

import re

_CREDENTIALS = re.compile(r":(/*).*@", re.DOTALL)
_PASSWORD = re.compile(
    r"""((?:passw(?:or)?d|passphrase|secret|token)\\*['"]?\s*[=:]\s*(?:b(?=['"]))?)"""
    r"""(\\+(['"]).*?\\+\3|'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|(?:[^&,'"\s}\\]|\\+.)+)""",
    re.IGNORECASE | re.DOTALL,
)
"""A password in a text. Group 1 is its name with the ``=`` or ``:``, and group 2 is the password itself.

In the ``repr()`` of a text, backslashes may escape the quotes around the password. Group 3 is then the quote.
"""


def without_secrets(value: object) -> str:
    """Return the ``repr()`` of ``value`` with passwords and the credentials of URLs masked, for an error message."""
    return masked(repr(value))


def masked(text: str) -> str:
    """Return ``text`` with ``***`` in place of passwords and the credentials of URLs."""
    return _PASSWORD.sub(r"\1***", _CREDENTIALS.sub(r":\1***@", text))
