"""Renew objects in a forked child.

In the child, a lock that a thread of the parent held at the fork is never released. Connections and pending counts
belong to the parent.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar
from weakref import WeakSet

T = TypeVar("T")


def renewed_after_fork(renew: Callable[[T], object]) -> WeakSet[T]:
    """Return a weak set. A forked child calls ``renew`` with each member of the set."""
    members: WeakSet[T] = WeakSet()

    def after_in_child() -> None:
        for member in list(members):
            renew(member)

    os.register_at_fork(after_in_child=after_in_child)
    return members
