"""The scripts that decide on the server, and the verdicts in their answers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from ...errors import BackendError
from ...policies import Verdict
from ...protocol.call import Call, is_allowed
from ..batches import Batches

_PACKAGE = files("ratelimit_core")


@cache
def script(names: frozenset[str], dry_run: bool = False) -> tuple[str, str]:
    """Return the Lua that decides a batch of calls of the policies ``names``, and its SHA-1.

    A ``dry_run`` writes nothing.
    """
    return _script(names, dry_run, "local key, argument, last_argument, all = 1, 2, #ARGV, true", _lua("batch"))


@cache
def script_for_each(names: frozenset[str]) -> tuple[str, str]:
    """Return the Lua that decides several batches, and its SHA-1."""
    begin = "local key, argument, last_argument, all = 1, 3, 0, true\nlocal function decide_batch()"
    return _script(names, False, begin, _lua("batch"), "end", _lua("each"))


def _script(names: frozenset[str], dry_run: bool, *main: str) -> tuple[str, str]:
    generated = [_text(f"policies/generated/lua/{name}.lua") for name in sorted(names)]
    begin = f"local policies, look = {{}}, {str(dry_run).lower()}"
    text = "\n".join([begin, *generated, _lua("common"), *main])
    return text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def _lua(name: str) -> str:
    return _text(f"backends/redis/{name}.lua")


def _text(path: str) -> str:
    return _PACKAGE.joinpath(path).read_text("utf-8")


_NUMBERS = {int}


def verdicts(calls: Sequence[Call], answer: Any) -> list[Verdict]:
    """Return the verdicts in ``answer``.

    Raises:
        BackendError: ``answer`` does not have the form of verdicts on ``calls``, as after damage in the network.
    """
    found = [tuple(verdict) for verdict in answer] if type(answer) is list else []
    if [len(verdict) for verdict in found] != [call.policy.answers for call in calls] or any(
        {*map(type, verdict)} != _NUMBERS for verdict in found
    ):
        raise BackendError(f"Redis: the script's answer to {len(calls)} calls is invalid: {answer!r:.200}")
    return found


def verdicts_of_each(batches: Batches, most: int | None, answer: Any) -> list[list[Verdict]]:
    """Return the verdicts of each decided batch in ``answer``, with the same check as :func:`verdicts`."""
    parts = answer if type(answer) is list else []
    found = [verdicts(calls, part) for calls, part in zip(batches, parts, strict=False)]
    allowed = sum(map(is_allowed, found))
    if len(parts) > len(batches) or (len(parts) < len(batches) and allowed != most) or (most or allowed) < allowed:
        raise BackendError(f"Redis: the script's answer to {len(batches)} batches is invalid: {answer!r:.200}")
    return found
