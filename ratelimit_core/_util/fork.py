"""What a forked child begins anew: a lock that a thread of its parent's may hold, and what is the parent's to tell."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar
from weakref import WeakSet

T = TypeVar("T")


def renewed_after_fork(renew: Callable[[T], object]) -> WeakSet[T]:
    """A set; in a forked child ``renew`` is called with each of its members, which it does not keep alive."""
    members: WeakSet[T] = WeakSet()

    def after_in_child() -> None:
        for member in list(members):
            renew(member)

    os.register_at_fork(after_in_child=after_in_child)
    return members
