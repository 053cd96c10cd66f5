"""Text for people: durations, and names without control characters."""

from __future__ import annotations

_UNITS = ((86400, "d"), (3600, "h"), (60, "min"))


def printable(text: str) -> str:
    r"""``text`` for the eyes: what does not print, and what could order a terminal about, is escaped as ``\x1b``.

    So it is one line.
    """
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def span(seconds: float) -> str:
    """A span of time in the unit that suits it, as ``42 s``, ``5 min``, ``3 h``, ``9 d``."""
    whole = max(round(seconds), 0)
    size, unit = next((each for each in _UNITS if whole >= 2 * each[0]), (1, "s"))
    return f"{whole / size:.0f} {unit}"
