"""Describe a breaker's status in words."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from .._util.text import span

_URGENCY = {"open": 0, "half_open": 1, "closed": 2}


def urgency(status: Mapping[str, Any]) -> tuple[int, bool]:
    """Return a sort key: open, half-open, closed. Among equals, breakers with a manual override come first."""
    return _URGENCY[status["state"]], status["mode"] == "automatic"


def _breakers(number: int) -> str:
    return "breaker" if number == 1 else "breakers"


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


def probe_of(status: Mapping[str, Any]) -> str:
    """Return in words when the next probe runs, or ``""`` if none is planned. A due probe needs a call."""
    if status["state"] == "half_open":
        return "now"
    due = status["next_attempt_time"]
    if due is None:
        return ""
    return f"in {span(due - time.time())}" if due > time.time() else "next call"


def word_of(status: Mapping[str, Any]) -> str:
    """Return in words the manual override or the shadow mode of a breaker, or ``""`` if it has neither."""
    if status["mode"] == "automatic":
        return "shadow mode: no call is rejected" if status["shadow"] else ""
    by = f" by {status['author']}" if status["author"] else ""
    return f"{status['mode'].replace('_', ' ')}{by}{': ' if status['reason'] else ''}{status['reason']}"
