"""Limiters that the project keeps for its own ends: their keys, by which they are not shown among people's limits."""

from __future__ import annotations

_TURNS, _WAITING, _COMMAND = "release:", "waiting:", "control:"


def turns_of(breaker: str) -> str:
    """The key of the limiter by which those who waited for a breaker come back."""
    return _TURNS + breaker


def waiting_call(task: str, digest: str) -> str:
    """The key of the place to wait that calls of a task with the same arguments share."""
    return f"{_WAITING}{task}:{digest}"


def command(words: str) -> str:
    """The key of the limiter by which one worker of a fleet carries a command out."""
    return _COMMAND + words


def is_bookkeeping(key: str) -> bool:
    """Whether that is the key of such a limiter."""
    return key.startswith((_TURNS, _WAITING, _COMMAND))
