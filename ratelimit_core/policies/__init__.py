"""What is decided: each policy is one pure function over integers, in a file of its own.

A policy is written once and runs everywhere: as it stands next to a store that runs Python, as generated Lua
inside Redis, and as generated SQL inside PostgreSQL. So it keeps to a small subset of Python (see
:mod:`ratelimit_core.codegen`), knows no clock and does no I/O. Times are µs. Its signature says what it works on::

    def policy(record..., /, event..., now, leases..., *, config...): ...

* *positional-only*: the record, as stored; all zeros where there is none;
* *positional*: the event, as asked; ``now``, the store's clock; and what it wants to know of its lease set,
  by the names in :data:`LEASES`. A lease is a member that ends at a time of its own; the caller's own one is
  found by its ticket;
* *keyword-only*: the configuration.

It returns one flat tuple: ``allowed`` (1 or 0), ``wait`` (µs until asking again makes sense), two answers of
its own, ``expires`` (when the record is of no more use; 0 to leave what is stored alone), the new record, and,
where it has a lease set, ``drop`` (how many leases of the ticket to remove), ``add`` (how many to add) and
``ends`` (when those end; denied, when the one that the caller still holds does). What the ticket held before
and what is not dropped stays, but is no longer anyone's; and so is what is added from the start where ``add``
is negative, since a ticket is good once. What is stored lasts longer than ``now``.
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
"""What a policy returned."""

ALLOWED, WAIT, ANSWER, OTHER_ANSWER, EXPIRES, RECORD = range(6)
"""Where things stand in a verdict; the record begins at ``RECORD``."""

LEASES = {
    "held": "how many leases have not ended",
    "current": "how many of them end within `period`",
    "next_end": "when the first of them ends, or 0",
    "newest": "when the last of them ends, or 0",
    "room_at": "when the last of them but `slots` ends: there are no more than `slots` from then on; or 0",
    "mine": "when the caller's ends, or 0",
}


@dataclass(frozen=True, slots=True, eq=False)
class Policy:
    """A policy's function, and the names of what it works on, read off its signature.

    ``version`` is stored with every record: raise it when the meaning of the record changes, and records of
    another version are replaced instead of misread.
    """

    name: str
    version: int
    decide: Callable[..., Verdict]
    record: tuple[str, ...]
    event: tuple[str, ...]
    leases: tuple[str, ...]
    config: tuple[str, ...]
    blank: tuple[int, ...]
    """The record where there is none."""
    answers: int
    """How many numbers a verdict has."""

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
        )


BREAKER = Policy.of(breaker, version=2)
CONCURRENCY = Policy.of(concurrency)
COUNTER = Policy.of(counter)
FIXED_WINDOW = Policy.of(fixed_window)
SLIDING_WINDOW = Policy.of(sliding_window)
SLIDING_WINDOW_COUNTER = Policy.of(sliding_window_counter)
TOKEN_BUCKET = Policy.of(token_bucket)

LIMITS = (CONCURRENCY, FIXED_WINDOW, SLIDING_WINDOW, SLIDING_WINDOW_COUNTER, TOKEN_BUCKET)
"""Those that may deny a hit for being too many."""

POLICIES = {policy.name: policy for policy in (BREAKER, COUNTER, *LIMITS)}
