"""The lease sets of the store in memory."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable
from functools import cache

from ..policies import Policy
from ..protocol.call import Call


class Leases:
    """A lease set: members that each end at their own time.

    ``ends`` maps each member to its end. From the index ``first`` on, ``by_end`` lists the same members in the order of
    their ends. If a signal handler raises during a change, or the process forks during a change, the set stays
    ``dirty``. The next read of a dirty set rebuilds ``by_end``.
    """

    __slots__ = ("by_end", "dirty", "ends", "first")

    def __init__(self) -> None:
        self.by_end: list[tuple[int, str]] = []
        self.ends: dict[str, int] = {}
        self.first = 0
        self.dirty = False

    def add(self, member: str, end: int) -> None:
        """Add a member, or move it to ``end``."""
        before = self.ends.get(member, 0)
        self.ends[member] = end
        if before:
            self._unlist(before, member)
        self._list(end, member)

    def _list(self, end: int, member: str) -> None:
        by_end = self.by_end
        if not by_end or by_end[-1][0] < end:  # the usual case
            by_end.append((end, member))
        else:
            insort(by_end, (end, member), self.first)

    def remove(self, member: str) -> None:
        """Remove a member, if it exists."""
        end = self.ends.pop(member, 0)
        if end:
            self._unlist(end, member)

    def _unlist(self, end: int, member: str) -> None:
        del self.by_end[bisect_left(self.by_end, (end, member), self.first)]

    def prune(self, ended: int) -> None:
        """Remove the members before the index ``ended``, which have ended."""
        by_end, ends = self.by_end, self.ends
        for i in range(self.first, ended):
            del ends[by_end[i][1]]
        if 2 * ended > len(by_end):  # so that the deletion moves fewer members than it removes
            del by_end[:ended]
            ended = 0
        self.first = ended

    def exchange(self, lease_id: str, drop: int, add: int, until: int, ended: int) -> None:
        """Drop and add leases as a policy decided: see :mod:`ratelimit_core.policies`."""
        self.dirty = True
        if ended != self.first:
            self.prune(ended)
        if add == 1 and not drop and lease_id not in self.ends:  # the usual case
            self.ends[lease_id] = until
            self._list(until, lease_id)
        else:
            self._exchange(lease_id, drop, add, until)
        self.dirty = False

    def _exchange(self, lease_id: str, drop: int, add: int, until: int) -> None:
        for part in range(max(add, 0) + 1, drop + 1):
            self.remove(_named(lease_id, part))
        for _ in range(-add):
            self._add_nameless(lease_id, until)
        for part in range(1, add + 1):
            member = _named(lease_id, part)
            if part > drop and member in self.ends:
                self._add_nameless(lease_id, self.ends[member])
            self.add(member, until)

    def _rebuild(self) -> None:
        self.by_end = sorted((end, member) for member, end in self.ends.items())
        self.first = 0
        self.dirty = False

    def _add_nameless(self, lease_id: str, end: int) -> None:
        n = len(self.ends) + 1
        while f"{lease_id}!{n}" in self.ends:
            n += 1
        self.add(f"{lease_id}!{n}", end)

    # Ended members are removed late, so every read skips them.

    def first_live_index(self, time: int) -> int:
        """Return the index in ``by_end`` of the first member that ends after ``time``.

        The argument ``ended`` of other methods is this index, for the current time.
        """
        if self.dirty:
            self._rebuild()
        by_end, first = self.by_end, self.first
        if first == len(by_end) or by_end[first][0] > time:
            return first
        return bisect_left(by_end, (time + 1, ""), first)

    def end_of(self, lease_id: str, now: int) -> int:
        """Return when the lease of ``lease_id`` ends; 0 if it has ended or never began."""
        end = self.ends.get(lease_id, 0)
        return end if end > now else 0

    def nth_last_end(self, skip: int, ended: int) -> int:
        """Return when the last member ends, not counting the ``skip`` members that end latest; 0 if none is left."""
        return self.by_end[-1 - skip][0] if skip < len(self.by_end) - ended else 0


def _named(lease_id: str, part: int) -> str:
    return lease_id if part == 1 else f"{lease_id}/{part}"


# Functions that compute the facts in `policies.LEASES` from a set, the index of its first live member, the call and the
# time. `_read` makes the functions that also need a parameter of the policy.
_Read = Callable[[Leases, int, Call, int], int]
_READS: dict[str, _Read] = {
    "active": lambda leases, ended, call, now: len(leases.by_end) - ended,
    "first_end": lambda leases, ended, call, now: leases.by_end[ended][0] if ended < len(leases.by_end) else 0,
    "last_end": lambda leases, ended, call, now: leases.by_end[-1][0] if ended < len(leases.by_end) else 0,
    "own_end": lambda leases, ended, call, now: leases.end_of(call.lease_id, now),
}


def _read(policy: Policy, name: str) -> _Read:
    if name == "ending_in_period":
        period = policy.config.index("period")
        return lambda leases, ended, call, now: leases.first_live_index(now + call.config[period]) - ended
    if name == "capacity_at" and policy.spare in policy.event:
        spare = policy.event.index(policy.spare)
        return lambda leases, ended, call, now: leases.nth_last_end(call.event[spare], ended)
    if name == "capacity_at":
        spare = policy.config.index(policy.spare)
        return lambda leases, ended, call, now: leases.nth_last_end(call.config[spare], ended)
    return _READS[name]


@cache  # unbounded, since policies are few
def reads(policy: Policy) -> list[_Read]:
    """Return the functions that compute the facts about leases in the signature of ``policy``."""
    return [_read(policy, name) for name in policy.leases]
