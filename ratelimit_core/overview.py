"""How the fleet is, for people: every breaker with who waits for it, and every limit with what is used of it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from . import conf, history
from .backends.base import Backend
from .backends.calls import Call
from .bookkeeping import is_bookkeeping, turns_of
from .circuit_breaker import circuit_breaker_registry
from .clock import SECOND
from .errors import ResilienceError
from .limits import Limit
from .policies import ANSWER, CONCURRENCY, LIMITS, OTHER_ANSWER, TOKEN_BUCKET, WAIT
from .policies.token_bucket import PEEK
from .texts import span

_TURNS = turns_of("")
_AT_A_TIME = 500
MOST = 200
"""So many limits of each algorithm are looked at: there may be one for each of a million clients."""
_WITH_HISTORY = 50
"""Of so many breakers, those that changed last, the history is read: a round trip each."""
_URGENCY = {"open": 0, "half_open": 1, "closed": 2}


def urgency(status: Mapping[str, Any]) -> tuple[int, bool]:
    """What to sort breakers by for people: the open ones first, and of these those that somebody has overruled."""
    return _URGENCY[status["state"]], status["mode"] == "automatic"


class LimitInUse(NamedTuple):
    """What is used of a limit now.

    Attributes:
        key: what is limited.
        limit: as it is written: ``10/s``, ``10/s burst 20``, or of places to run their number.
        algorithm: the policy's name; ``concurrency`` for places to run.
        allowance, used: how many there are, and how many of them are taken.
        retry_after: seconds until one more is allowed; 0 if it is now.
        reset_after: seconds until all are back; of places to run, 0.
    """

    key: str
    limit: str
    algorithm: str
    allowance: int
    used: int
    retry_after: float
    reset_after: float


class Overview(NamedTuple):
    """What :func:`overview` found: the fullest limits first, and by the breaker's name how many tasks wait for it."""

    limits: list[LimitInUse]
    waiting: dict[str, int]


def overview(
    backend: Backend, breakers: Mapping[str, Mapping[str, Any]], most: int = MOST, *, now: float | None = None
) -> Overview:
    """The limits that ``backend`` lists, at most ``most`` of each algorithm, and who waits for ``breakers``.

    Those of :mod:`.bookkeeping` are no limits here.

    ``breakers`` is what ``circuit_breaker_registry.get_fleet_status()`` says. Who waits for a breaker has a turn to
    come back after its next probe; turns are counted by the time that they take. A round trip for each algorithm, and
    one for every 500 limits.

    Raises:
        BackendError: the store is away.
        CircuitBreakerError: it has been for a while.
    """
    keys = [(policy, key) for policy in LIMITS for key in backend.keys(policy, most)]
    known = [(limit, name) for policy, (name, text) in keys if (limit := Limit.of_key(policy, text)) is not None]
    calls = [limit.call(name, PEEK, 1, "") for limit, name in known]
    verdicts = _looked(backend, calls)
    limits: list[LimitInUse] = []
    waiting: dict[str, int] = {}
    now = time.time() if now is None else now
    for (limit, name), call, verdict in zip(known, calls, verdicts, strict=True):
        used = limit.allowance - verdict[ANSWER]
        reset = verdict[OTHER_ANSWER] / SECOND
        if limit.policy is TOKEN_BUCKET and name.startswith(_TURNS):
            breaker = name.removeprefix(_TURNS)
            probe = breakers.get(breaker, {}).get("next_attempt_time") or 0.0
            waiting[breaker] = round(max(0.0, reset - max(0.0, probe - now)) / (limit.spacing_us / SECOND))
        elif used > 0 and not is_bookkeeping(limit.policy, name, call.key[1]):
            places = limit.policy is CONCURRENCY
            wait = verdict[WAIT] / SECOND
            limits.append(
                LimitInUse(name, call.key[1], limit.policy.name, limit.allowance, used, wait, 0.0 if places else reset)
            )
    limits.sort(key=lambda each: (-each.used / each.allowance, each.key, each.limit))
    return Overview(limits, {name: number for name, number in waiting.items() if number})


def _looked(backend: Backend, calls: Sequence[Call]) -> list[tuple[int, ...]]:
    return [verdict for i in range(0, len(calls), _AT_A_TIME) for verdict in backend.apply(calls[i : i + _AT_A_TIME])]


class Span(NamedTuple):
    """A time that a breaker spent in one state. Seconds since the epoch."""

    state: str
    began: float
    ended: float


_STATES = {"opened": "open", "half_open": "half_open", "closed": "closed", "reset": "closed"}
_OVERRULING = ("forced_open", "forced_closed", "disabled")


def timeline(history: Iterable[Mapping[str, Any]], began: float, ended: float) -> list[Span]:
    """How callers felt a breaker from ``began`` to ``ended``, oldest first, from its history, which is newest first.

    A mode in force goes before the state, and what opened in the shadow refused nobody. What was before the first entry
    counts as closed.
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


class Fleet(NamedTuple):
    """What the configured store says of the whole fleet.

    Attributes:
        breakers: by name, as ``circuit_breaker_registry.get_fleet_status()`` says.
        limits, waiting: see :class:`Overview`.
        histories: by name, newest first, of the breakers that changed last.
        away: why the store can't be asked; then nothing is known.
    """

    breakers: dict[str, dict[str, Any]]
    limits: list[LimitInUse]
    waiting: dict[str, int]
    histories: dict[str, list[dict[str, Any]]]
    away: str = ""

    def worst_first(self) -> list[str]:
        """The names of all breakers: the open ones first, and among equals those of which somebody has said so."""
        return sorted(self.breakers, key=lambda name: (urgency(self.breakers[name]), name))

    def since(self, name: str) -> float | None:
        """Since when callers have felt a breaker as they do now. Seconds since the epoch; None if nobody knows."""
        spans = timeline(self.histories.get(name, ()), 0.0, time.time())
        return spans[-1].began or self.breakers[name]["changed_at"]

    def headline(self) -> str:
        """All in one sentence."""
        if self.away:
            return "The shared store is away"
        states = [status["state"] for status in self.breakers.values()]
        total, opened, probing = len(states), states.count("open"), states.count("half_open")
        if opened:
            return f"{opened} of {total} {_breakers(total)} {_are(opened)} open"
        if probing:
            return f"{probing} {_breakers(probing)} {_are(probing)} probing"
        if total == 1:
            return "The one breaker is closed"
        return f"All {total} breakers are closed" if total else "No breaker is in use"


def _breakers(number: int) -> str:
    return "breaker" if number == 1 else "breakers"


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


def look() -> Fleet:
    """The whole fleet, as the configured store knows it. A few round trips, and one for each history."""
    try:
        breakers = circuit_breaker_registry.get_fleet_status()
        backend = conf.get_store().backend
        limits, waiting = overview(backend, breakers)
        changed = sorted(breakers, key=lambda name: breakers[name]["changed_at"] or 0, reverse=True)
        eventful = [name for name in changed if breakers[name]["mode"] != "automatic"] + changed
        recent = list(dict.fromkeys(eventful))[:_WITH_HISTORY]
        return Fleet(breakers, limits, waiting, {name: history.read(backend, name) for name in recent})
    except ResilienceError as error:
        return Fleet({}, [], {}, {}, str(error))


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
