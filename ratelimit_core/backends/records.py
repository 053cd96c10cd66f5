"""Records and leases in a dictionary, next to which policies run as they are written."""

from __future__ import annotations

import threading
from bisect import bisect_left, insort
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from functools import cache, lru_cache, partial
from itertools import islice

from ..clock import SECOND, Clock
from ..forks import renewed_after_fork
from ..policies import ALLOWED, EXPIRES, RECORD, Policy, Verdict
from ..policies.generated.python import hit_of
from .calls import MAX_KEY, Call, Key, escape, refuse_duplicates, unescape


class _Leases:
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
        end = self.ends.get(ticket, 0)
        return end if end > now else 0

    def end_of_last_but(self, skip: int, ended: int) -> int:
        return self.by_end[-1 - skip][0] if skip < len(self.by_end) - ended else 0


def _named(ticket: str, part: int) -> str:
    return ticket if part == 1 else f"{ticket}/{part}"


# What each name in `policies.LEASES` is, given the set, where in it those begin that last, and the call. A read that
# depends on another parameter finds it by its place.
_Read = Callable[[_Leases, int, Call, int], int]
_READS: dict[str, _Read] = {
    "active": lambda leases, ended, call, now: len(leases.by_end) - ended,
    "first_end": lambda leases, ended, call, now: leases.by_end[ended][0] if ended < len(leases.by_end) else 0,
    "last_end": lambda leases, ended, call, now: leases.by_end[-1][0] if ended < len(leases.by_end) else 0,
    "own_end": lambda leases, ended, call, now: leases.end_of(call.ticket, now),
}


def _read(policy: Policy, name: str) -> _Read:
    if name == "ending_in_period":
        period = policy.config.index("period")
        return lambda leases, ended, call, now: leases.ending_by(now + call.config[period]) - ended
    if name == "capacity_at" and policy.spare in policy.event:
        spare = policy.event.index(policy.spare)
        return lambda leases, ended, call, now: leases.end_of_last_but(call.event[spare], ended)
    if name == "capacity_at":
        spare = policy.config.index(policy.spare)
        return lambda leases, ended, call, now: leases.end_of_last_but(call.config[spare], ended)
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
        return self.expires > now or self.leases.ending_by(now) < len(self.leases.by_end)


class Records:
    """The dictionary, with one lock. Of each policy it keeps ``max_keys``: what was not written for longest goes."""

    def __init__(self, max_keys: int, clock: Clock) -> None:
        self._clock = clock
        self._max_keys = max_keys
        self._entries: dict[str, OrderedDict[Key, _Entry]] = {}
        self._journals: OrderedDict[Key, tuple[int, deque[str]]] = OrderedDict()
        self._writes = 0
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
            drop, add, until = verdict[RECORD + width :]
            if drop or add:
                entry.leases.exchange(call.ticket, drop, add, until, entry.leases.ending_by(now))
                written = True
        if written:
            entries = self._entries_of(policy)
            entries[entry.key] = entry
            entries.move_to_end(entry.key)
            self._writes += 1
            if not self._writes % 8 or len(entries) > self._max_keys:
                self._sweep(entries, now)

    def _entries_of(self, policy: Policy) -> OrderedDict[Key, _Entry]:
        return self._entries.setdefault(policy.name, OrderedDict())

    def _sweep(self, entries: OrderedDict[Key, _Entry], now: int) -> None:
        for oldest in list(islice(entries, 16)):  # twice as many as may have come since
            if entries[oldest].in_use(now) and len(entries) <= self._max_keys:
                return
            del entries[oldest]

    def hit(self, call: Call) -> Callable[[str, str], Verdict]:
        """What decides hits like ``call`` of any name, each with a ticket of its own, as :meth:`apply` does."""
        policy, (_, qualifier), event, config, _ = call
        decide, leased = hit_of(policy, event, config)
        entries, clock, sweep = self._entries_of(policy), self._clock, self._sweep
        blank, end = policy.blank, RECORD + len(policy.blank)

        def hit(name: str, ticket: str) -> Verdict:
            key = name, qualifier
            if len(name) > MAX_KEY or "%" in name:
                key = _bounded(key)
            with self._lock:
                now = clock()
                entry = entries.get(key)
                if entry is None:
                    entry = _Entry(key)
                leases = entry.leases
                first = leases.ending_by(now) if leased else 0
                verdict = decide(entry.record if entry.expires > now else blank, now, leases.by_end, first)
                if verdict[0]:
                    if blank:
                        entry.record, entry.expires = verdict[RECORD:end], verdict[EXPIRES]
                    if leased:
                        drop, add, until = verdict[end:]
                        leases.exchange(ticket, drop, add, until, first)
                    entries[key] = entry
                    entries.move_to_end(key)
                    self._writes = writes = self._writes + 1
                    if not writes % 8 or len(entries) > self._max_keys:
                        sweep(entries, now)
                return verdict

        return hit

    def delete(self, policy: Policy, keys: Sequence[Key]) -> None:
        """Forget these records and their leases."""
        with self._lock:
            for key in keys:
                self._entries.get(policy.name, OrderedDict()).pop(_bounded(key), None)

    def keys(self, policy: Policy, most: int | None) -> list[Key]:
        """The records of ``policy`` that have not expired, ``most`` at most."""
        with self._lock:
            now = self._clock()
            entries = self._entries.get(policy.name, OrderedDict())
            in_use = ((unescape(name), rest) for (name, rest), entry in entries.items() if entry.in_use(now))
            return list(islice(in_use, most))

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
            for entries in list(self._entries.values()):  # which may be held on to, to hit quicker
                entries.clear()
            self._journals.clear()

    def _after_fork(self) -> None:
        self._lock = threading.Lock()  # the parent's may be held by a thread that this child does not have


_instances = renewed_after_fork(Records._after_fork)
