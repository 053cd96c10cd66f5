"""The history of a breaker: a bounded journal in the store, and the author of the override in force."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import Any

from ..backends.base import Backend
from ..errors import BackendError, CircuitBreakerError, ConfigurationError
from ..events import ModeChanged, StateChanged, emit
from ..policies.circuit_breaker import AUTOMATIC
from ..protocol.breaker import MODES
from ..protocol.call import Key

MAX_ENTRIES = 100
"""So many entries of each breaker are kept, the newest."""
TTL_S = 90 * 24 * 3600
"""The journal is kept for so many seconds after its last entry."""
_OVERRIDE_TTL_S = 3650 * 24 * 3600
_MAX_TEXT = 1000

Entry = dict[str, Any]
_EMPTY: Entry = {"author": "", "reason": "", "failure_count": 0, "retry_after": 0.0, "ttl": None, "shadow": False}
"""What an entry says by default; an entry of an earlier version, which lacks some of it, too."""

EVENTS = {"open": "opened", "closed": "closed", "half_open": "half_open"}
"""What an entry calls the change into each state."""


def transition_entry(change: StateChanged, at: float) -> Entry:
    """Return the entry for a change of state that calls caused."""
    known = {name: getattr(change, name) for name in ("failure_count", "retry_after", "shadow")}
    return _entry(change.name, EVENTS[change.new], at, **known)


def override_entry(name: str, event: str, author: str, reason: str, ttl: float | None) -> Entry:
    """Return the entry for what an operator did.

    Raises:
        ConfigurationError: ``author`` or ``reason`` is not a string.
    """
    for option, value in (("author", author), ("reason", reason)):
        if not isinstance(value, str):
            raise ConfigurationError(f"{option}={value!r} should be a string")
    return _entry(name, event, time.time(), author=author[:_MAX_TEXT], reason=reason[:_MAX_TEXT], ttl=ttl)


def _entry(name: str, event: str, at: float, **more: Any) -> Entry:
    return {"name": name, "event": event, "at": at} | _EMPTY | more


def journal_arguments(entry: Entry) -> tuple[Key, str, int, int]:
    """Return what a journal wants to know: its key, the entry, how many it keeps, and for how many seconds."""
    return (entry["name"], "history"), json.dumps(entry), MAX_ENTRIES, TTL_S


def write(backend: Backend, entry: Entry) -> None:
    """Emit and keep what an operator did. The override in force is also kept apart, where no other entry displaces it.

    Two round trips. The override itself is done already, so it stands even if the store becomes unavailable now.
    """
    ends = entry["ttl"] is not None or entry["event"] in ("reset", MODES[AUTOMATIC])
    in_force = TTL_S + int(entry["ttl"] or 0) if ends else _OVERRIDE_TTL_S
    emit(ModeChanged(entry["name"], entry["event"], entry["author"], entry["reason"], entry["ttl"]))
    key, text, keep, seconds = journal_arguments(entry)
    with suppress(BackendError, CircuitBreakerError):
        backend.append(key, text, keep=keep, seconds=seconds)
        backend.append((entry["name"], "mode"), text, keep=1, seconds=in_force)


def read(backend: Backend, name: str) -> list[Entry]:
    """Return the entries of a breaker, newest first. One round trip."""
    return _parse(backend.entries((name, "history")))


def current_override(backend: Backend, name: str, mode: int) -> dict[str, str]:
    """Return the author and the reason of the override in force. One round trip; none without an override."""
    entries: list[Entry] = []
    if mode != AUTOMATIC:
        with suppress(BackendError, CircuitBreakerError):
            entries = _parse(backend.entries((name, "mode")))
    last = next((entry for entry in entries if entry["event"] == MODES[mode]), {"author": "", "reason": ""})
    return {"author": last["author"], "reason": last["reason"]}


def _parse(texts: list[str]) -> list[Entry]:
    """Return the entries that can be read."""
    entries = []
    for text in texts:
        with suppress(ValueError, TypeError):
            entry = _EMPTY | json.loads(text)
            if isinstance(entry.get("event"), str) and isinstance(entry.get("at"), int | float):
                entries.append(entry)
    return entries
