"""Keep records and leases in a dictionary, and run policies on them as plain Python functions."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from itertools import islice

from .._util.clock import SECOND, Clock
from .._util.fork import renewed_after_fork
from ..policies import ALLOWED, EXPIRES, RECORD, Policy, Verdict
from ..policies.generated.python import hit_of
from ..protocol.call import Call, Key, is_allowed, reject_duplicates
from ..protocol.names import MAX_KEY, escape, unescape
from .batches import Batches
from .leases import Leases, reads


@lru_cache(maxsize=4096)
def _configured(policy: Policy, config: tuple[int, ...]) -> Callable[..., Verdict]:
    """Return the policy's function with its configuration filled in."""
    return partial(policy.decide, **dict(zip(policy.config, config, strict=True)))


def _bounded(key: Key) -> Key:
    """Return ``key``. If its name is too long, shorten the name as other stores do.

    A shortened name contains a per cent sign. A name that itself contains a per cent sign is escaped, so that it never
    equals a shortened name.
    """
    name = key[0]
    return key if len(name) <= MAX_KEY and "%" not in name else (escape(name), key[1])


class _Entry:
    """A stored record, the time in µs when the record ends, and the leases of the same key."""

    __slots__ = ("expires", "key", "leases", "record")

    def __init__(self, key: Key) -> None:
        self.key = key
        self.record: tuple[int, ...] = ()
        self.expires = 0
        self.leases = Leases()

    def in_use(self, now: int) -> bool:
        return self.expires > now or self.leases.first_live_index(now) < len(self.leases.by_end)


class Records:
    """The records, leases and journals of one store, in dictionaries with one lock.

    For each policy, at most ``max_keys`` keys are kept. The least recently written keys are evicted first. The same
    holds for journals.
    """

    def __init__(self, max_keys: int, clock: Clock) -> None:
        self._clock = clock
        self._max_keys = max_keys
        self._entries: dict[str, OrderedDict[Key, _Entry]] = {}
        self._journals: OrderedDict[Key, tuple[int, deque[str]]] = OrderedDict()
        self._writes = 0
        self._lock = threading.Lock()
        _instances.add(self)

    def apply(self, calls: Sequence[Call]) -> list[Verdict]:
        """Decide ``calls`` under the lock. If one call is denied, nothing is written for any call."""
        with self._lock:
            now = self._clock()
            if len(calls) == 1:  # the usual case
                call = calls[0]
                entry, record, verdict = self._decide(call, now)
                if verdict[ALLOWED]:
                    self._write(call, entry, record, verdict, now)
                return [verdict]
            reject_duplicates(calls)
            return self._apply_together(calls, now)

    def apply_each(self, batches: Batches, most: int | None) -> list[list[Verdict]]:
        """Decide the batches one after the other, under the lock, until ``most`` of them are allowed.

        Return the verdicts of those that were decided.
        """
        with self._lock:
            now = self._clock()
            found: list[list[Verdict]] = []
            allowed = 0
            for calls in batches:
                if allowed == most:
                    break
                found.append(self._apply_together(calls, now))
                allowed += is_allowed(found[-1])
            return found

    def _apply_together(self, calls: Sequence[Call], now: int) -> list[Verdict]:
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
        ended = leases.first_live_index(now)
        return (
            entry,
            record,
            decide(*record, *call.event, now, *[read(leases, ended, call, now) for read in reads(policy)]),
        )

    def _write(self, call: Call, entry: _Entry, before: tuple[int, ...], verdict: Verdict, now: int) -> None:
        policy = call.policy
        width = len(policy.blank)
        record = verdict[RECORD : RECORD + width]
        written = verdict[EXPIRES] > 0 and record != before
        if written:
            entry.record, entry.expires = record, verdict[EXPIRES]
        if policy.leases:
            drop, add, until = verdict[RECORD + width :]
            if drop or add:
                entry.leases.exchange(call.lease_id, drop, add, until, entry.leases.first_live_index(now))
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
        # Every 8th write sweeps, so that ended entries do not accumulate. So does each write that makes a key too many.
        # A sweep deletes up to 16 of the oldest entries, and stops at the first entry that has to be kept.
        for oldest in list(islice(entries, 16)):
            if entries[oldest].in_use(now) and len(entries) <= self._max_keys:
                return
            del entries[oldest]

    def hit(self, call: Call) -> Callable[[str, str], Verdict]:
        """Return a function that takes a name and a lease id, and decides ``call`` with this name and lease id.

        The result is the same as that of :meth:`apply`.
        """
        policy, (_, qualifier), event, config, _ = call
        decide, leased = hit_of(policy, event, config)
        entries, clock, sweep = self._entries_of(policy), self._clock, self._sweep
        blank, end = policy.blank, RECORD + len(policy.blank)

        def hit(name: str, lease_id: str) -> Verdict:
            key = name, qualifier
            if len(name) > MAX_KEY or "%" in name:
                key = _bounded(key)
            with self._lock:
                now = clock()
                entry = entries.get(key)
                if entry is None:
                    entry = _Entry(key)
                leases = entry.leases
                first = leases.first_live_index(now) if leased else 0
                verdict = decide(entry.record if entry.expires > now else blank, now, leases.by_end, first)
                if verdict[0]:
                    if blank:
                        entry.record, entry.expires = verdict[RECORD:end], verdict[EXPIRES]
                    if leased:
                        drop, add, until = verdict[end:]
                        leases.exchange(lease_id, drop, add, until, first)
                    entries[key] = entry
                    entries.move_to_end(key)
                    self._writes = writes = self._writes + 1
                    if not writes % 8 or len(entries) > self._max_keys:
                        sweep(entries, now)
                return verdict

        return hit

    def delete(self, policy: Policy, keys: Sequence[Key]) -> None:
        """Delete the records under ``keys`` and their leases."""
        with self._lock:
            for key in keys:
                self._entries.get(policy.name, OrderedDict()).pop(_bounded(key), None)

    def keys(self, policy: Policy, most: int | None) -> list[Key]:
        """Return at most ``most`` keys of ``policy`` whose record or leases have not ended."""
        with self._lock:
            now = self._clock()
            entries = self._entries.get(policy.name, OrderedDict())
            in_use = ((unescape(name), rest) for (name, rest), entry in entries.items() if entry.in_use(now))
            return list(islice(in_use, most))

    def append(self, key: Key, entry: str, keep: int, seconds: int) -> None:
        """Add an entry to the journal ``key``: see :meth:`Backend.append`."""
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
        """Return the entries of the journal ``key``, the newest first."""
        with self._lock:
            expires, journal = self._journals.get(_bounded(key), (0, deque()))
            return list(journal) if expires > self._clock() else []

    def clear(self) -> None:
        """Delete everything."""
        with self._lock:
            # Clear the dictionaries in place, because functions that `hit` returned refer to them.
            for entries in list(self._entries.values()):
                entries.clear()
            self._journals.clear()

    def _after_fork(self) -> None:
        self._lock = threading.Lock()  # a thread of the parent may hold the old lock


_instances = renewed_after_fork(Records._after_fork)
