"""A lease set in memory: members that each end at their own time."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable
from functools import cache

from ..policies import Policy
from ..protocol.call import Call


class Leases:
    """A lease set: members that each end at a time of their own. ``by_end`` begins at ``first``.

    ``ends`` is what counts, and ``by_end`` is how to search it. What raises in the middle of a change, as the handler
    of a signal may do anywhere, leaves the set ``torn``, and so does whoever forks then: the next one mends it.
    """

    __slots__ = ("by_end", "ends", "first", "torn")

    def __init__(self) -> None:
        self.by_end: list[tuple[int, str]] = []
        self.ends: dict[str, int] = {}
        self.first = 0
        self.torn = False

    def add(self, member: str, end: int) -> None:
        """Or move it to ``end``."""
        before = self.ends.get(member, 0)
        self.ends[member] = end
        if before:
            self._unlist(before, member)
        self._list(end, member)

    def _list(self, end: int, member: str) -> None:
        by_end = self.by_end
        if not by_end or by_end[-1][0] < end:  # as nearly always
            by_end.append((end, member))
        else:
            insort(by_end, (end, member), self.first)

    def remove(self, member: str) -> None:
        """Remove a member, if it is there."""
        end = self.ends.pop(member, 0)
        if end:
            self._unlist(end, member)

    def _unlist(self, end: int, member: str) -> None:
        del self.by_end[bisect_left(self.by_end, (end, member), self.first)]

    def prune(self, ended: int) -> None:
        """Drop what has ended: what stands before that place."""
        by_end, ends = self.by_end, self.ends
        for place in range(self.first, ended):
            del ends[by_end[place][1]]
        if 2 * ended > len(by_end):  # so that no more is moved than was dropped
            del by_end[:ended]
            ended = 0
        self.first = ended

    def exchange(self, ticket: str, drop: int, add: int, until: int, ended: int) -> None:
        """What a policy asked for: see :mod:`ratelimit_core.policies`."""
        self.torn = True
        if ended != self.first:
            self.prune(ended)
        if add == 1 and not drop and ticket not in self.ends:  # as nearly always
            self.ends[ticket] = until
            self._list(until, ticket)
        else:
            self._exchange(ticket, drop, add, until)
        self.torn = False

    def _exchange(self, ticket: str, drop: int, add: int, until: int) -> None:
        for part in range(max(add, 0) + 1, drop + 1):
            self.remove(_named(ticket, part))
        for _ in range(-add):
            self._add_nameless(ticket, until)
        for part in range(1, add + 1):
            member = _named(ticket, part)
            if part > drop and member in self.ends:
                self._add_nameless(ticket, self.ends[member])
            self.add(member, until)

    def _mend(self) -> None:
        self.by_end = sorted((end, member) for member, end in self.ends.items())
        self.first = 0
        self.torn = False

    def _add_nameless(self, ticket: str, end: int) -> None:
        n = len(self.ends) + 1
        while f"{ticket}!{n}" in self.ends:
            n += 1
        self.add(f"{ticket}!{n}", end)

    # What has not been pruned yet may have ended: nobody is told of it.

    def ending_by(self, time: int) -> int:
        """Where in ``by_end`` those begin that end later. Whoever uses the set asks this first."""
        if self.torn:
            self._mend()
        by_end, first = self.by_end, self.first
        if first == len(by_end) or by_end[first][0] > time:
            return first
        return bisect_left(by_end, (time + 1, ""), first)

    def end_of(self, ticket: str, now: int) -> int:
        """Return when the lease of ``ticket`` ends; 0 if it has ended or never began."""
        end = self.ends.get(ticket, 0)
        return end if end > now else 0

    def end_of_last_but(self, skip: int, ended: int) -> int:
        """Return when the last member but ``skip`` ends; 0 if there are no more than ``skip``."""
        return self.by_end[-1 - skip][0] if skip < len(self.by_end) - ended else 0


def _named(ticket: str, part: int) -> str:
    return ticket if part == 1 else f"{ticket}/{part}"


# What each name in `policies.LEASES` is, given the set, where in it those begin that last, and the call. A read that
# depends on another parameter finds it by its place.
_Read = Callable[[Leases, int, Call, int], int]
_READS: dict[str, _Read] = {
    "held": lambda leases, ended, call, now: len(leases.by_end) - ended,
    "next_end": lambda leases, ended, call, now: leases.by_end[ended][0] if ended < len(leases.by_end) else 0,
    "newest": lambda leases, ended, call, now: leases.by_end[-1][0] if ended < len(leases.by_end) else 0,
    "mine": lambda leases, ended, call, now: leases.end_of(call.ticket, now),
}


def _read(policy: Policy, name: str) -> _Read:
    if name == "current":
        period = policy.config.index("period")
        return lambda leases, ended, call, now: leases.ending_by(now + call.config[period]) - ended
    if name == "room_at" and "slots" in policy.event:
        slots = policy.event.index("slots")
        return lambda leases, ended, call, now: leases.end_of_last_but(call.event[slots], ended)
    if name == "room_at":
        slots = policy.config.index("slots")
        return lambda leases, ended, call, now: leases.end_of_last_but(call.config[slots], ended)
    return _READS[name]


@cache  # there are few policies
def reads(policy: Policy) -> list[_Read]:
    """How to find out what the policy wants to know of its leases."""
    return [_read(policy, name) for name in policy.leases]
