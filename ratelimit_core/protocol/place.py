"""The calls on the places of waiting keys, and names for the numbers in their verdicts.

In each source queue, a waiting key has the place ``key:<key>``, whose holder is a number plus 1. The number has the
place ``number:<number>``, whose holder is a hash of the key. Both are taken and left together.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from .._util.clock import SECOND
from ..policies import COUNTER, EXPIRES, PLACE, Verdict
from ..policies.counter import HIT as COUNT
from ..policies.counter import PEEK as READ
from ..policies.place import LEAVE, PEEK, TAKE, TOUCH, TURN
from .call import Call
from .internal_keys import PLACES

KEEP = 30 * 24 * 3600 * SECOND
"""The time in µs after which an untouched place ends."""
TURN_MARGIN = 50_000
"""The time in µs between two turns, so that all processes together ask for a key at most 20 times in a second."""
LEAVE_MARGIN = 500_000
"""The time in µs for which a place must be untouched before it can be left.

A process that moves a task to a place reports it within that time. So no task is moved to a place that is just left.
"""

_KEY, _NUMBER = "key:", "number:"


class PlaceVerdict(NamedTuple):
    """The part of a verdict that says who has the place.

    Attributes:
        allowed: 1, or 0 if the call is denied.
        wait: µs until the assigned turn, or until the place can be left.
        holder: the number plus 1, or the hash of the key; 0 if the place is free.
        waited: µs since the place was taken.
    """

    allowed: int
    wait: int
    holder: int
    waited: int

    @classmethod
    def of(cls, verdict: Verdict) -> PlaceVerdict:
        """Return the named part of a verdict."""
        return cls._make(verdict[:EXPIRES])


def look(queue: str, key: str) -> Call:
    """Return the call that is denied if tasks of ``key`` wait. It changes nothing."""
    return _call(queue, _KEY + key, PEEK)


def take(queue: str, key: str, number: int) -> list[Call]:
    """Return the calls that assign a number to a key. They are denied if the key or the number is assigned otherwise.

    The verdict of the first call says which number the key has.
    """
    return [
        _call(queue, _KEY + key, TAKE, number + 1),
        _call(queue, f"{_NUMBER}{number}", TAKE, hash_of(key)),
        _count_change(queue),
    ]


def share(queue: str, key: str, number: int) -> list[Call]:
    """Return the calls that assign a number to a key, although another key holds the number. See :func:`take`."""
    return [_call(queue, _KEY + key, TAKE, number + 1), _count_change(queue)]


def leave(queue: str, key: str, number: int) -> list[Call]:
    """Return the calls that free a key and its number. They are denied for a while after the place was touched."""
    return [
        _call(queue, _KEY + key, LEAVE, number + 1, LEAVE_MARGIN),
        _call(queue, f"{_NUMBER}{number}", LEAVE, hash_of(key)),
    ]


def leave_shared(queue: str, key: str, number: int) -> list[Call]:
    """Return the call that frees a key, and not its number, which another key holds. See :func:`leave`."""
    return [_call(queue, _KEY + key, LEAVE, number + 1, LEAVE_MARGIN)]


def touch(queue: str, key: str, number: int) -> list[Call]:
    """Return the calls that report that a task was moved to the place. They are always allowed.

    The verdict of the first call says which number the key has. If it is another one, nothing was touched.
    """
    return [
        _call(queue, _KEY + key, TOUCH, number + 1),
        _call(queue, f"{_NUMBER}{number}", TOUCH, hash_of(key)),
    ]


def turn(queue: str, key: str, number: int) -> Call:
    """Return the call that assigns the time of the next question for the key. It is always allowed."""
    return _call(queue, _KEY + key, TURN, number + 1, TURN_MARGIN)


def changes(queue: str) -> Call:
    """Return the call whose answer changes whenever a key gets a number."""
    return Call(COUNTER, (queue, PLACES), (READ, 0, 0), ())


def hash_of(key: str) -> int:
    """Return an integer from 1 to 2**48 that stands for the key, as a policy can't read text."""
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
    return 1 + int.from_bytes(digest[:6], "big")


def _count_change(queue: str) -> Call:
    return Call(COUNTER, (queue, PLACES), (COUNT, 1, KEEP), ())


def _call(queue: str, qualifier: str, op: int, caller: int = 0, margin: int = 0) -> Call:
    return Call(PLACE, (queue, qualifier), (op, caller, margin), (KEEP,))
