"""Format text for people: durations, and names without control characters."""

from __future__ import annotations

_UNITS = ((86400, "d"), (3600, "h"), (60, "min"))


def printable(text: str) -> str:
    r"""Return ``text`` on one line, safe for a terminal: characters that do not print are escaped as ``\x1b``."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def span(seconds: float) -> str:
    """Return a duration in the unit that suits it, as ``42 s``, ``5 min``, ``3 h``, ``9 d``."""
    whole = max(round(seconds), 0)
    size, unit = next((each for each in _UNITS if whole >= 2 * each[0]), (1, "s"))
    return f"{whole / size:.0f} {unit}"
