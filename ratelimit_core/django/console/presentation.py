"""Prepare the status and the history of a breaker for a page."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from django.utils import timezone

from ..._util.text import printable, span
from .url_names import mode_of


def shown(status: dict[str, Any]) -> dict[str, Any]:
    """Return ``status`` with times and texts that a page can show."""
    times = {
        name: moment(status[name]) for name in ("changed_at", "last_failure_time", "next_attempt_time", "mode_until")
    }
    texts = {name: printable(status[name]) for name in ("name", "author", "reason")}
    words = {"state_word": status["state"].replace("_", "-"), "mode_word": mode_of(status).replace("_", " ")}
    return status | times | texts | words


def shown_entry(entry: dict[str, Any]) -> dict[str, Any]:
    """Return an entry of a history with times and texts that a page can show."""
    return {
        "at": moment(entry["at"]),
        "event": entry["event"].replace("_", " ") + (" in shadow mode" if entry["shadow"] else ""),
        "author": printable(entry["author"]),
        "reason": printable(entry["reason"]),
        "failure_count": entry["failure_count"] or "",
        "lasts": span(entry["ttl"] or entry["retry_after"]) if entry["ttl"] or entry["retry_after"] else "",
    }


def moment(seconds: float | None) -> dict[str, Any] | None:
    """Return the local time of ``seconds`` since the epoch, and its distance from now in words."""
    if seconds is None:
        return None
    off = seconds - time.time()
    moment = timezone.localtime(datetime.fromtimestamp(seconds, UTC))
    return {"moment": moment, "off": f"in {span(off)}" if off > 0 else f"{span(-off)} ago"}
