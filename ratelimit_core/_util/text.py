"""Format durations for people, and escape control characters in text."""

from __future__ import annotations

_UNITS = ((86400, "d"), (3600, "h"), (60, "min"))


def printable(text: str) -> str:
    r"""Escape unprintable characters, as in ``\x1b``. The result is one line and safe for a terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def span(seconds: float) -> str:
    """Format a duration in a suitable unit, as in ``42 s``, ``5 min``, ``3 h`` or ``9 d``."""
    whole = max(round(seconds), 0)
    size, unit = next((each for each in _UNITS if whole >= 2 * each[0]), (1, "s"))
    return f"{whole / size:.0f} {unit}"
