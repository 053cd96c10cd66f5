"""A breaker's status in words."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from .._util.text import span

_URGENCY = {"open": 0, "half_open": 1, "closed": 2}


def urgency(status: Mapping[str, Any]) -> tuple[int, bool]:
    """What to sort breakers by for people: the open ones first, and of these those that somebody has overruled."""
    return _URGENCY[status["state"]], status["mode"] == "automatic"


def _breakers(number: int) -> str:
    return "breaker" if number == 1 else "breakers"


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


def probe_of(status: Mapping[str, Any]) -> str:
    """When the next probe is; empty where none is to come. One that is due waits for somebody to call."""
    if status["state"] == "half_open":
        return "now"
    due = status["next_attempt_time"]
    if due is None:
        return ""
    return f"in {span(due - time.time())}" if due > time.time() else "next call"


def word_of(status: Mapping[str, Any]) -> str:
    """What a person has said of a breaker; empty where nobody did."""
    if status["mode"] == "automatic":
        return "in the shadow: nobody is refused" if status["shadow"] else ""
    by = f" by {status['author']}" if status["author"] else ""
    return f"{status['mode'].replace('_', ' ')}{by}{': ' if status['reason'] else ''}{status['reason']}"
