"""Make the ids of leases, which are unique across processes and forks."""

from __future__ import annotations

import itertools
import os
import secrets

_prefix = secrets.token_hex(6)
_numbers = itertools.count()


def new_id() -> str:
    """Return an id that no other lease has."""
    return f"{_prefix}{next(_numbers):x}"


def _after_fork() -> None:
    global _prefix
    _prefix = secrets.token_hex(6)


os.register_at_fork(after_in_child=_after_fork)
