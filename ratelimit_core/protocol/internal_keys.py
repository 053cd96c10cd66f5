"""The keys of the limiters that the project uses internally. Listings of people's limits leave them out."""

from __future__ import annotations

import re

from ..policies import CONCURRENCY, FIXED_WINDOW, TOKEN_BUCKET, Policy

_TURNS, _WAITING, _COMMAND = "release:", "waiting:", "control:"
_CALL = re.compile(rf"{_WAITING}.*:[0-9a-f]{{32}}", re.DOTALL)
COMMAND_RATE = "1/2s"
"""One worker of the fleet carries out a command; for this long the others do not repeat it."""


def turns_of(breaker: str) -> str:
    """Return the key of the limiter that spreads the tasks that resume when a breaker recovers."""
    return _TURNS + breaker


def waiting_call(task: str, digest: str) -> str:
    """Return the key of the lease that calls of a task with the same arguments share while one of them waits."""
    return f"{_WAITING}{task}:{digest}"


def command(words: str) -> str:
    """Return the key of the limiter that lets one worker of the fleet carry out a command."""
    return _COMMAND + words


def is_bookkeeping(policy: Policy, key: str, limit: str) -> bool:
    """Return whether this is an internal limiter. A person may choose a key with the same beginning."""
    if policy is TOKEN_BUCKET:
        return key.startswith(_TURNS)
    if policy is CONCURRENCY:
        return limit == "1" and _CALL.fullmatch(key) is not None
    return policy is FIXED_WINDOW and limit == COMMAND_RATE and key.startswith(_COMMAND)
