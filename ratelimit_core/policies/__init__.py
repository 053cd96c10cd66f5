"""The policies: each decides calls by pure functions over integers, in its own module.

A policy is written once and runs everywhere: as Python next to a store that runs Python, as generated Lua inside Redis,
and as generated SQL inside PostgreSQL. So it is written in a small subset of Python (see
:mod:`ratelimit_core.codegen`), reads no clock and does no I/O. Times and durations are in µs. The signature of the
function that decides says what it needs::

    def policy(record..., /, event..., now, leases..., *, config...): ...

* *positional-only*: the stored record; all zeros if there is none;
* *positional*: the event; ``now``, the store's clock; and facts about the policy's lease set, by the names in
  :data:`LEASES`. A lease is a member that ends at its own time; the caller's lease is found by its lease id;
* *keyword-only*: the configuration.

It returns one flat tuple: ``allowed`` (1 or 0), ``wait`` (µs until asking again makes sense), two answers of its own,
``expires`` (when the record is no longer needed; 0 leaves the stored record alone), and the new record. A policy with a
lease set also returns ``drop`` (how many leases of the caller's id to remove), ``add`` (how many to add) and ``ends``
(when those end; if the call is denied, when the caller's lease ends). Leases of that id that are neither dropped nor
added again stay, but no id names them any more. The same holds for leases that are added with a negative ``add``,
because an id can be used once. What is stored lasts longer than ``now``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

from .circuit_breaker import breaker
from .concurrency import concurrency
from .counter import counter
from .fixed_window import fixed_window
from .sliding_window import sliding_window
from .sliding_window_counter import sliding_window_counter
from .token_bucket import token_bucket

Verdict = tuple[int, ...]
"""The tuple that a policy returns."""

ALLOWED, WAIT, ANSWER, OTHER_ANSWER, EXPIRES, RECORD = range(6)
"""Indices into a verdict; the record begins at ``RECORD``."""

LEASES = {
    "active": "how many leases have not ended",
    "ending_in_period": "how many of them end within `period`",
    "first_end": "when the first of them ends, or 0",
    "last_end": "when the last of them ends, or 0",
    "capacity_at": "when no more than `spare_...` of them are left, or 0",
    "own_end": "when the caller's lease ends, or 0",
}
"""What a policy may ask about its leases. Of its parameters, the one that begins with ``spare_`` is meant."""


@dataclass(frozen=True, slots=True, eq=False)
class Policy:
    """A policy's function, and the names of its parameters, read from its signature.

    ``version`` is stored with every record. Raise it when the meaning of the record changes: records of another
    version are replaced, never misread.
    """

    name: str
    version: int
    decide: Callable[..., Verdict]
    record: tuple[str, ...]
    event: tuple[str, ...]
    leases: tuple[str, ...]
    config: tuple[str, ...]
    blank: tuple[int, ...]
    """The record if none is stored."""
    answers: int
    """How many numbers a verdict has."""
    spare: str
    """The parameter that says how many other leases leave room for the call; empty if there is none."""

    @classmethod
    def of(cls, decide: Callable[..., Verdict], version: int = 1) -> Policy:
        """Describe the policy ``decide``."""
        parameters = inspect.signature(decide).parameters.values()
        middle = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        before, after = middle[: middle.index("now")], middle[middle.index("now") + 1 :]
        if unknown := [name for name in after if name not in LEASES]:
            raise ValueError(f"{decide.__name__}: after `now` come {', '.join(LEASES)}; not {unknown}")
        record = tuple(p.name for p in parameters if p.kind is p.POSITIONAL_ONLY)
        return cls(
            name=decide.__name__,
            version=version,
            decide=decide,
            record=record,
            event=tuple(before),
            leases=tuple(after),
            config=tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY),
            blank=(0,) * len(record),
            answers=RECORD + len(record) + (3 if after else 0),
            spare=next((p.name for p in parameters if p.name.startswith("spare_")), ""),
        )


BREAKER = Policy.of(breaker, version=2)
CONCURRENCY = Policy.of(concurrency)
COUNTER = Policy.of(counter)
FIXED_WINDOW = Policy.of(fixed_window)
SLIDING_WINDOW = Policy.of(sliding_window)
SLIDING_WINDOW_COUNTER = Policy.of(sliding_window_counter)
TOKEN_BUCKET = Policy.of(token_bucket)

LIMITS = (CONCURRENCY, FIXED_WINDOW, SLIDING_WINDOW, SLIDING_WINDOW_COUNTER, TOKEN_BUCKET)
"""The policies that deny hits above a limit."""

POLICIES = {policy.name: policy for policy in (BREAKER, COUNTER, *LIMITS)}
