"""The policies. Each policy decides calls with pure functions over integers, in its own module.

A policy is written once and runs in every store: as generated Lua inside Redis, as generated SQL inside PostgreSQL, and
for other stores as Python in the process. So a policy is written in a small subset of Python (see
:mod:`ratelimit_core.codegen`), reads no clock and does no I/O. Times and durations are in µs.

The parameters of a policy's function are its inputs::

    def policy(record..., /, event..., now, leases..., *, config...): ...

* *positional-only*: the fields of the stored record, or zeros if no record is stored;
* *positional*: the event; ``now``, the time of the store's clock; and the facts in :data:`LEASES` that the policy uses;
* *keyword-only*: the configuration.

A lease set contains leases, each of which ends at its own time. The caller's lease is found by its lease id. Expired
records and leases that have ended are not passed to a policy.

The function returns a verdict, a flat tuple of integers:

* ``allowed``: 1 or 0;
* ``wait``: µs until asking again makes sense;
* two answers, which each policy defines;
* ``expires``: the time at which the record is no longer needed, or 0 to keep the stored record unchanged;
* the fields of the new record.

The verdict of a policy with a lease set also has:

* ``drop``: the number of leases of the caller's id to remove;
* ``add``: the number of leases to add. A negative number adds leases without an id, so that the id can't be used again;
* ``ends``: the end of the added leases, or if the call is denied, the end of the caller's lease.

If leases are added to an id that still has leases after the removal, the old leases stay and lose their id.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

from .circuit_breaker import breaker
from .concurrency import concurrency
from .counter import counter
from .fixed_window import fixed_window
from .place import place
from .sliding_window import sliding_window
from .sliding_window_counter import sliding_window_counter
from .token_bucket import token_bucket

Verdict = tuple[int, ...]
"""The tuple that a policy returns."""

ALLOWED, WAIT, ANSWER, OTHER_ANSWER, EXPIRES, RECORD = range(6)
"""Indices into a verdict. The new record begins at ``RECORD``."""

LEASES = {
    "active": "the number of leases that have not ended",
    "ending_in_period": "the number of active leases that end within `period`",
    "first_end": "the time at which the first active lease ends, or 0",
    "last_end": "the time at which the last active lease ends, or 0",
    "capacity_at": "the time from which at most `spare_...` of the active leases are left, or 0",
    "own_end": "the time at which the caller's lease ends, or 0",
}
"""The facts about its leases that a policy may use. ``spare_...`` is the policy's parameter :attr:`Policy.spare`."""


@dataclass(frozen=True, slots=True, eq=False)
class Policy:
    """A policy's function, and the names of the function's parameters.

    ``version`` is stored with every record. Increase the version when the meaning of the record changes. A record of
    another version is replaced, never read.
    """

    name: str
    version: int
    decide: Callable[..., Verdict]
    record: tuple[str, ...]
    event: tuple[str, ...]
    leases: tuple[str, ...]
    config: tuple[str, ...]
    blank: tuple[int, ...]
    """The record that the function gets if no record is stored."""
    answers: int
    """The number of integers in a verdict."""
    spare: str
    """The parameter that says how many other leases leave room for the call, or ``""`` if the policy has none."""

    @classmethod
    def of(cls, decide: Callable[..., Verdict], version: int = 1) -> Policy:
        """Describe the policy ``decide``."""
        parameters = inspect.signature(decide).parameters.values()
        middle = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        before, after = middle[: middle.index("now")], middle[middle.index("now") + 1 :]
        if unknown := [name for name in after if name not in LEASES]:
            raise ValueError(
                f"{decide.__name__}: the parameters {unknown} after `now` should be among {', '.join(LEASES)}"
            )
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
PLACE = Policy.of(place)
SLIDING_WINDOW = Policy.of(sliding_window)
SLIDING_WINDOW_COUNTER = Policy.of(sliding_window_counter)
TOKEN_BUCKET = Policy.of(token_bucket)

LIMITS = (CONCURRENCY, FIXED_WINDOW, SLIDING_WINDOW, SLIDING_WINDOW_COUNTER, TOKEN_BUCKET)
"""The policies that deny hits above a limit."""

POLICIES = {policy.name: policy for policy in (BREAKER, COUNTER, PLACE, *LIMITS)}
