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
"""The maximum number of entries for each breaker. If there are more, the oldest are dropped."""
TTL_S = 90 * 24 * 3600
"""The seconds for which the journal is kept after its last entry."""
_OVERRIDE_TTL_S = 3650 * 24 * 3600
_MAX_TEXT = 1000

Entry = dict[str, Any]
_EMPTY: Entry = {"author": "", "reason": "", "failure_count": 0, "retry_after": 0.0, "ttl": None, "shadow": False}
"""The default values of an entry. They also complete entries that earlier versions wrote."""

EVENTS = {"open": "opened", "closed": "closed", "half_open": "half_open"}
"""The ``event`` of an entry, by the breaker's new state."""


def transition_entry(change: StateChanged, at: float) -> Entry:
    """Return the entry for a change of state that calls caused."""
    known = {name: getattr(change, name) for name in ("failure_count", "retry_after", "shadow")}
    return _entry(change.name, EVENTS[change.new], at, **known)


def override_entry(name: str, event: str, author: str, reason: str, ttl: float | None) -> Entry:
    """Return the entry for an operator's command.

    Raises:
        ConfigurationError: ``author`` or ``reason`` is not a string.
    """
    for option, value in (("author", author), ("reason", reason)):
        if not isinstance(value, str):
            raise ConfigurationError(f"{option}={value!r} should be a string; leave it out, or write {option}='...'")
    return _entry(name, event, time.time(), author=author[:_MAX_TEXT], reason=reason[:_MAX_TEXT], ttl=ttl)


def _entry(name: str, event: str, at: float, **more: Any) -> Entry:
    return {"name": name, "event": event, "at": at} | _EMPTY | more


def journal_arguments(entry: Entry) -> tuple[Key, str, int, int]:
    """Return the journal's key, the entry as text, the maximum number of entries, and the seconds to keep them."""
    return (entry["name"], "history"), json.dumps(entry), MAX_ENTRIES, TTL_S


def write(backend: Backend, entry: Entry) -> None:
    """Emit the event of an operator's command, and append its entry to the history. Costs two round trips.

    The entry of the latest command is also kept in a second journal, where changes of state do not displace it. Errors
    of the store are ignored, because the command itself has already succeeded.
    """
    ends = entry["ttl"] is not None or entry["event"] in ("reset", MODES[AUTOMATIC])
    in_force = TTL_S + int(entry["ttl"] or 0) if ends else _OVERRIDE_TTL_S
    emit(ModeChanged(entry["name"], entry["event"], entry["author"], entry["reason"], entry["ttl"]))
    key, text, keep, seconds = journal_arguments(entry)
    with suppress(BackendError, CircuitBreakerError):
        backend.append(key, text, keep=keep, seconds=seconds)
        backend.append((entry["name"], "mode"), text, keep=1, seconds=in_force)


def read(backend: Backend, name: str) -> list[Entry]:
    """Return the entries of a breaker, newest first. Costs one round trip."""
    return _parse(backend.entries((name, "history")))


def current_override(backend: Backend, name: str, mode: int) -> dict[str, str]:
    """Return the author and the reason of the override in force, or empty strings if they are unknown.

    Costs one round trip if there is an override, otherwise none.
    """
    entries: list[Entry] = []
    if mode != AUTOMATIC:
        with suppress(BackendError, CircuitBreakerError):
            entries = _parse(backend.entries((name, "mode")))
    last = next((entry for entry in entries if entry["event"] == MODES[mode]), {"author": "", "reason": ""})
    return {"author": last["author"], "reason": last["reason"]}


def _parse(texts: list[str]) -> list[Entry]:
    """Parse the entries. Skip damaged entries."""
    entries = []
    for text in texts:
        with suppress(ValueError, TypeError):
            entry = _EMPTY | json.loads(text)
            if isinstance(entry.get("event"), str) and isinstance(entry.get("at"), int | float):
                entries.append(entry)
    return entries
