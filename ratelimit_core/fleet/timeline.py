"""Derive from a breaker's history which states callers saw, and when."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any, NamedTuple


class Span(NamedTuple):
    """The time that a breaker spent in one state, in seconds since the epoch."""

    state: str
    began: float
    ended: float


_STATES = {"opened": "open", "half_open": "half_open", "closed": "closed", "reset": "closed"}
_OVERRULING = ("forced_open", "forced_closed", "disabled")


def timeline(history: Iterable[Mapping[str, Any]], began: float, ended: float) -> list[Span]:
    """Return the states that callers saw from ``began`` to ``ended``, oldest first. Times are seconds since the epoch.

    The newest entry of ``history`` is the first. A manual override takes precedence over the breaker's own state. A
    breaker in shadow mode rejects no call, so its states count as closed. The time before the first entry counts as
    closed too.
    """
    changes: list[tuple[float, str]] = [(began, "closed")]
    state, mode, mode_ends = "closed", "", math.inf
    for entry in (*reversed([*history]), {"at": ended, "event": ""}):
        at, event = entry["at"], entry["event"]
        if mode and mode_ends <= at:
            mode = ""
            changes.append((mode_ends, state))
        if event in _STATES:
            state = "closed" if entry["shadow"] else _STATES[event]
        if event in ("reset", "automatic", "shadow", *_OVERRULING):
            mode = event if event in _OVERRULING else ""
            mode_ends = at + entry["ttl"] if entry["ttl"] else math.inf
        changes.append((at, mode or state))
    spans: list[Span] = []
    for (at, felt), (until, _) in pairwise([*changes, (ended, "")]):
        span = Span(felt, max(at, began), min(until, ended))
        if span.began >= span.ended:
            continue
        if spans and spans[-1].state == felt:
            span = span._replace(began=spans.pop().began)
        spans.append(span)
    return spans
