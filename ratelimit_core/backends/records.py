"""Records and leases in a dictionary, next to which policies run as they are written."""

from __future__ import annotations

import os
import threading
import weakref
from bisect import bisect_left, insort
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from functools import cache, lru_cache, partial
from itertools import islice

from ..clock import SECOND, Clock
from ..policies import ALLOWED, EXPIRES, RECORD, Policy, Verdict
from .calls import MAX_KEY, Call, Key, escape, refuse_duplicates, unescape


class _Leases:
    """A lease set: members that each end at a time of their own."""

    __slots__ = ("by_end", "ends")

    def __init__(self) -> None:
        self.by_end: list[tuple[int, str]] = []
        self.ends: dict[str, int] = {}

    def add(self, member: str, end: int) -> None:
        self.ends[member] = end
        insort(self.by_end, (end, member))

    def remove(self, member: str) -> int:
        """When it would have ended, or 0."""
        end = self.ends.pop(member, 0)
        if end:
            del self.by_end[bisect_left(self.by_end, (end, member))]
        return end

    def prune(self, now: int) -> None:
        """Drop what has ended."""
        ended = self.ending_by(now)
        for _, member in self.by_end[:ended]:
            del self.ends[member]
        del self.by_end[:ended]

    def exchange(self, ticket: str, drop: int, add: int, ends: int, now: int) -> None:
        """What a policy asked for: see :mod:`ratelimit_core.policies`."""
        self.prune(now)
        for part in range(1, drop + 1):
            self.remove(_named(ticket, part))
        for _ in range(-add):
            self._add_nameless(ticket, ends)
        for part in range(1, add + 1):
            member = _named(ticket, part)
            before = self.remove(member)
            if before:
                self._add_nameless(ticket, before)
            self.add(member, ends)

    def _add_nameless(self, ticket: str, end: int) -> None:
        n = len(self.ends) + 1
        while f"{ticket}!{n}" in self.ends:
            n += 1
        self.add(f"{ticket}!{n}", end)

    # What has not been pruned yet may have ended: nobody is told of it.

    def ending_by(self, time: int) -> int:
        return bisect_left(self.by_end, (time + 1, ""))

    def end_of(self, ticket: str, now: int) -> int:
        end = self.ends.get(ticket, 0)
        return end if end > now else 0

    def end_of_last_but(self, skip: int, now: int) -> int:
        end = self.by_end[-1 - skip][0] if skip < len(self.by_end) else 0
        return end if end > now else 0


def _named(ticket: str, part: int) -> str:
    return ticket if part == 1 else f"{ticket}/{part}"


# What each name in `policies.LEASES` is, given the set, how many of it have ended, and the call. A read that depends on
# another parameter finds it by its place.
_Read = Callable[[_Leases, int, Call, int], int]
_READS: dict[str, _Read] = {
    "held": lambda leases, ended, call, now: len(leases.by_end) - ended,
    "next_end": lambda leases, ended, call, now: leases.by_end[ended][0] if ended < len(leases.by_end) else 0,
    "newest": lambda leases, ended, call, now: leases.end_of_last_but(0, now),
    "mine": lambda leases, ended, call, now: leases.end_of(call.ticket, now),
}


def _read(policy: Policy, name: str) -> _Read:
    if name == "current":
        period = policy.config.index("period")
        return lambda leases, ended, call, now: leases.ending_by(now + call.config[period]) - ended
    if name == "room_at" and "slots" in policy.event:
        slots = policy.event.index("slots")
        return lambda leases, ended, call, now: leases.end_of_last_but(call.event[slots], now)
    if name == "room_at":
        slots = policy.config.index("slots")
        return lambda leases, ended, call, now: leases.end_of_last_but(call.config[slots], now)
    return _READS[name]


@lru_cache(maxsize=4096)
def _configured(policy: Policy, config: tuple[int, ...]) -> Callable[..., Verdict]:
    """The policy's function under one configuration."""
    return partial(policy.decide, **dict(zip(policy.config, config, strict=True)))


@cache  # there are few policies
def _reads(policy: Policy) -> list[_Read]:
    """How to find out what the policy wants to know of its leases."""
    return [_read(policy, name) for name in policy.leases]


def _bounded(key: Key) -> Key:
    """``key``, with its name as others store it where that is long; a per cent sign tells the one from the other."""
    name = key[0]
    return key if len(name) <= MAX_KEY and "%" not in name else (escape(name), key[1])


class _Entry:
    """What is stored under one key: a record with its end, and leases."""

    __slots__ = ("expires", "key", "leases", "record")

    def __init__(self, key: Key) -> None:
        self.key = key
        self.record: tuple[int, ...] = ()
        self.expires = 0
        self.leases = _Leases()

    def in_use(self, now: int) -> bool:
        return self.expires > now or self.leases.end_of_last_but(0, now) > now


class Records:
    """The dictionary, with one lock. Of each policy it keeps ``max_keys``: what was not written for longest goes."""

    def __init__(self, max_keys: int, clock: Clock) -> None:
        self._clock = clock
        self._max_keys = max_keys
        self._entries: dict[str, OrderedDict[Key, _Entry]] = {}
        self._journals: OrderedDict[Key, tuple[int, deque[str]]] = OrderedDict()
        self._lock = threading.Lock()
        _instances.add(self)

    def apply(self, calls: Sequence[Call]) -> list[Verdict]:
        """Decide ``calls`` under the lock; if one is denied, nothing is written for any."""
        refuse_duplicates(calls)
        with self._lock:
            now = self._clock()
            if len(calls) == 1:  # as nearly always
                call = calls[0]
                entry, record, verdict = self._decide(call, now)
                if verdict[ALLOWED]:
                    self._write(call, entry, record, verdict, now)
                return [verdict]
            decided = [self._decide(call, now) for call in calls]
            if all(verdict[ALLOWED] for _, _, verdict in decided):
                for call, (entry, record, verdict) in zip(calls, decided, strict=True):
                    self._write(call, entry, record, verdict, now)
            return [verdict for _, _, verdict in decided]

    def _decide(self, call: Call, now: int) -> tuple[_Entry, tuple[int, ...], Verdict]:
        policy = call.policy
        entries = self._entries.get(policy.name)
        key = call.key
        if len(key[0]) > MAX_KEY or "%" in key[0]:
            key = _bounded(key)
        entry = entries.get(key) if entries else None
        if entry is None:
            entry = _Entry(key)
        record = entry.record if entry.expires > now else policy.blank
        decide = _configured(policy, call.config)
        if not policy.leases:
            return entry, record, decide(*record, *call.event, now)
        leases = entry.leases
        ended = leases.ending_by(now)
        return (
            entry,
            record,
            decide(*record, *call.event, now, *[read(leases, ended, call, now) for read in _reads(policy)]),
        )

    def _write(self, call: Call, entry: _Entry, was: tuple[int, ...], verdict: Verdict, now: int) -> None:
        policy = call.policy
        width = len(policy.blank)
        record = verdict[RECORD : RECORD + width]
        written = verdict[EXPIRES] > 0 and record != was
        if written:
            entry.record, entry.expires = record, verdict[EXPIRES]
        if policy.leases:
            drop, add, ends = verdict[RECORD + width :]
            if drop or add:
                entry.leases.exchange(call.ticket, drop, add, ends, now)
                written = True
        if written:
            entries = self._entries.setdefault(policy.name, OrderedDict())
            entries[entry.key] = entry
            entries.move_to_end(entry.key)
            oldest = next(iter(entries))
            if entries[oldest].expires > now and len(entries) <= self._max_keys:
                return
            for old in list(islice(entries, 2)):  # each write drops up to two that have ended, or are too many
                if entries[old].in_use(now) and len(entries) <= self._max_keys:
                    return
                del entries[old]

    def delete(self, policy: Policy, keys: Sequence[Key]) -> None:
        """Forget these records and their leases."""
        with self._lock:
            for key in keys:
                self._entries.get(policy.name, OrderedDict()).pop(_bounded(key), None)

    def keys(self, policy: Policy) -> list[Key]:
        """The records of ``policy`` that have not expired."""
        with self._lock:
            now = self._clock()
            entries = self._entries.get(policy.name, OrderedDict())
            return [(unescape(name), rest) for (name, rest), entry in entries.items() if entry.in_use(now)]

    def append(self, key: Key, entry: str, keep: int, seconds: int) -> None:
        """Add to the journal ``key``."""
        key = _bounded(key)
        with self._lock:
            now = self._clock()
            expires, journal = self._journals.get(key, (0, deque()))
            self._journals[key] = now + seconds * SECOND, deque(islice(journal, keep - 1) if expires > now else ())
            self._journals[key][1].appendleft(entry)
            self._journals.move_to_end(key)
            while len(self._journals) > self._max_keys:
                self._journals.popitem(last=False)

    def entries(self, key: Key) -> list[str]:
        """The journal ``key``, newest first."""
        with self._lock:
            expires, journal = self._journals.get(_bounded(key), (0, deque()))
            return list(journal) if expires > self._clock() else []

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()
            self._journals.clear()

    def _after_fork(self) -> None:
        self._lock = threading.Lock()  # the parent's may be held by a thread that this child does not have


_instances: weakref.WeakSet[Records] = weakref.WeakSet()


def _after_fork() -> None:
    for records in list(_instances):
        records._after_fork()


os.register_at_fork(after_in_child=_after_fork)
