"""Renew objects in a forked child: a thread of the parent may hold their locks, and their counts are the parent's."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar
from weakref import WeakSet

T = TypeVar("T")


def renewed_after_fork(renew: Callable[[T], object]) -> WeakSet[T]:
    """Return a weak set. In a forked child ``renew`` is called with each of its members."""
    members: WeakSet[T] = WeakSet()

    def after_in_child() -> None:
        for member in list(members):
            renew(member)

    os.register_at_fork(after_in_child=after_in_child)
    return members
