"""Limiters that the project keeps for its own ends: their keys, by which they are not shown among people's limits."""

from __future__ import annotations

import re

from ..policies import CONCURRENCY, FIXED_WINDOW, TOKEN_BUCKET, Policy

_TURNS, _WAITING, _COMMAND = "release:", "waiting:", "control:"
_CALL = re.compile(rf"{_WAITING}.*:[0-9a-f]{{32}}", re.DOTALL)
COMMAND_RATE = "1/2s"
"""For so long a command is carried out by one worker alone."""


def turns_of(breaker: str) -> str:
    """The key of the limiter by which those who waited for a breaker come back."""
    return _TURNS + breaker


def waiting_call(task: str, digest: str) -> str:
    """The key of the place to wait that calls of a task with the same arguments share."""
    return f"{_WAITING}{task}:{digest}"


def command(words: str) -> str:
    """The key of the limiter by which one worker of a fleet carries a command out."""
    return _COMMAND + words


def is_bookkeeping(policy: Policy, key: str, limit: str) -> bool:
    """Whether that is such a limiter. A person may choose a key that begins alike."""
    if policy is TOKEN_BUCKET:
        return key.startswith(_TURNS)
    if policy is CONCURRENCY:
        return limit == "1" and _CALL.fullmatch(key) is not None
    return policy is FIXED_WINDOW and limit == COMMAND_RATE and key.startswith(_COMMAND)
