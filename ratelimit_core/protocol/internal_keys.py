"""The keys of the limiters and counters that this library uses internally. Listings of limits do not show them.

Places are no limits, and no listing of limits reads them.
"""

from __future__ import annotations

import re

from ..policies import CONCURRENCY, COUNTER, FIXED_WINDOW, TOKEN_BUCKET, Policy

_TURNS, _WAITING, _COMMAND = "release:", "waiting:", "control:"
_CALL = re.compile(rf"{_WAITING}.*:[0-9a-f]{{32}}", re.DOTALL)
COMMAND_RATE = "1/2s"
"""The rate of each command: one worker of the fleet carries out the command, and for 2 s the other workers skip it."""

PLACES = "places"
"""The qualifier of the counter that counts the changes of a queue's places. A user's counter has no qualifier."""


def turns_of(breaker: str) -> str:
    """Return the key of the limiter that staggers the tasks that resume after a breaker recovers."""
    return _TURNS + breaker


def waiting_call(task: str, digest: str) -> str:
    """Return the key of the lease that a waiting call of a task holds, so that duplicate tasks can be recognised."""
    return f"{_WAITING}{task}:{digest}"


def command(words: str) -> str:
    """Return the key of the limiter that lets only one worker of the fleet carry out a command."""
    return _COMMAND + words


def is_bookkeeping(policy: Policy, key: str, limit: str) -> bool:
    """Return whether a limit with this policy, key and size belongs to an internal limiter or counter.

    Where possible, the limit and the form of the key are checked too, because a user's key may begin in the same way.
    """
    if policy is TOKEN_BUCKET:
        return key.startswith(_TURNS)
    if policy is CONCURRENCY:
        return limit == "1" and _CALL.fullmatch(key) is not None
    if policy is COUNTER:
        return limit == PLACES
    return policy is FIXED_WINDOW and limit == COMMAND_RATE and key.startswith(_COMMAND)
