"""What became of a breaker, and who said so: a bounded journal in the store."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import Any

from ..backends.base import Backend
from ..errors import BackendError, CircuitBreakerError, ConfigurationError
from ..events import ModeChanged, StateChanged, emit
from ..policies.breaker import AUTOMATIC
from ..protocol.breaker import MODES
from ..protocol.call import Key

KEPT = 100
"""So many entries of each breaker."""
SECONDS = 90 * 24 * 3600
"""For so long after the last one."""
_LONG = 3650 * 24 * 3600
_MAX_TEXT = 1000

Entry = dict[str, Any]
_EMPTY: Entry = {"author": "", "reason": "", "failure_count": 0, "retry_after": 0.0, "ttl": None, "shadow": False}
"""What an entry says where nothing else is known; one that was written before something was added to it, too."""

Note = tuple[Key, str, int, int]

EVENTS = {"open": "opened", "closed": "closed", "half_open": "half_open"}
"""What it is called that a breaker came into a state."""


def transition(change: StateChanged, at: float) -> Entry:
    """The entry for a change of state that calls brought about."""
    known = {name: getattr(change, name) for name in ("failure_count", "retry_after", "shadow")}
    return _entry(change.name, EVENTS[change.new], at, **known)


def manual(name: str, event: str, author: str, reason: str, ttl: float | None) -> Entry:
    """The entry for what a person did.

    Raises:
        ConfigurationError: ``author`` or ``reason`` is no text.
    """
    for option, value in (("author", author), ("reason", reason)):
        if not isinstance(value, str):
            raise ConfigurationError(f"{option}={value!r} should be a string")
    return _entry(name, event, time.time(), author=author[:_MAX_TEXT], reason=reason[:_MAX_TEXT], ttl=ttl)


def _entry(name: str, event: str, at: float, **more: Any) -> Entry:
    return {"name": name, "event": event, "at": at} | _EMPTY | more


def note(entry: Entry) -> Note:
    """The arguments for :meth:`Store.note`, but for the last."""
    return (entry["name"], "history"), json.dumps(entry), KEPT, SECONDS


def write(backend: Backend, entry: Entry) -> None:
    """Report and keep what a person did; the word on a mode in force also where nothing displaces it.

    Two round trips. It is done already: a store that goes away in this moment makes nobody's word void.
    """
    ends = entry["ttl"] is not None or entry["event"] in ("reset", MODES[AUTOMATIC])
    in_force = SECONDS + int(entry["ttl"] or 0) if ends else _LONG
    emit(ModeChanged(entry["name"], entry["event"], entry["author"], entry["reason"], entry["ttl"]))
    key, text, keep, seconds = note(entry)
    with suppress(BackendError, CircuitBreakerError):
        backend.append(key, text, keep=keep, seconds=seconds)
        backend.append((entry["name"], "mode"), text, keep=1, seconds=in_force)


def read(backend: Backend, name: str) -> list[Entry]:
    """The entries of a breaker, newest first. One round trip."""
    return _parsed(backend.entries((name, "history")))


def word_on(backend: Backend, name: str, mode: int) -> dict[str, str]:
    """Who put the mode in force, and why. One round trip; none where nobody did."""
    entries: list[Entry] = []
    if mode != AUTOMATIC:
        with suppress(BackendError, CircuitBreakerError):
            entries = _parsed(backend.entries((name, "mode")))
    last = next((entry for entry in entries if entry["event"] == MODES[mode]), {"author": "", "reason": ""})
    return {"author": last["author"], "reason": last["reason"]}


def _parsed(texts: list[str]) -> list[Entry]:
    """The entries, without what is none."""
    entries = []
    for text in texts:
        with suppress(ValueError, TypeError):
            entry = _EMPTY | json.loads(text)
            if isinstance(entry.get("event"), str) and isinstance(entry.get("at"), int | float):
                entries.append(entry)
    return entries
