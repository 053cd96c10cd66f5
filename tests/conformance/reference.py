"""What every store has to do, written the obvious way: a dict of records, a list of leases, sorted each time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ratelimit_core._util.clock import Clock
from ratelimit_core.backends import Call
from ratelimit_core.policies import ALLOWED, EXPIRES, RECORD, Policy, Verdict

Key = tuple[str, str]


class Lease(NamedTuple):
    """``owner`` is the lease id that can name it, or '' once none can."""

    ends: int
    owner: str


class State(NamedTuple):
    """What is in use under one key."""

    record: tuple[int, ...]
    expires: int
    leases: list[Lease]


class Reference:
    finest = 1

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.records: dict[tuple[str, Key], tuple[int, tuple[int, ...]]] = {}
        self.leases: dict[tuple[str, Key], list[Lease]] = {}

    def __repr__(self) -> str:
        return "the reference"

    def apply(self, calls: Sequence[Call]) -> list[Verdict]:
        now = self.clock()
        verdicts = [self._decide(call, now) for call in calls]
        if all(verdict[ALLOWED] == 1 for verdict in verdicts):
            for call, verdict in zip(calls, verdicts, strict=True):
                self._write(call, verdict, now)
        return verdicts

    def state(self, policy: Policy, key: Key) -> State:
        now = self.clock()
        expires, record = self.records.get((policy.name, key), (0, ()))
        if expires <= now:
            expires, record = 0, ()
        leases = [lease for lease in self.leases.get((policy.name, key), []) if lease.ends > now]
        return State(record, expires, sorted(leases))

    def keys(self, policy: Policy) -> set[Key]:
        known = [key for name, key in {**self.records, **self.leases} if name == policy.name]
        return {key for key in known if self.state(policy, key) != ((), 0, [])}

    def _decide(self, call: Call, now: int) -> Verdict:
        policy = call.policy
        record, _, leases = self.state(policy, call.key)
        config = dict(zip(policy.config, call.config, strict=True))
        given = config | dict(zip(policy.event, call.event, strict=True))
        ends = sorted(lease.ends for lease in leases)
        latest_first = ends[::-1]
        answers = {
            "active": len(ends),
            "ending_in_period": len([end for end in ends if end <= now + given.get("period", 0)]),
            "first_end": next(iter(ends), 0),
            "last_end": next(iter(latest_first), 0),
            "capacity_at": next(iter(latest_first[given.get(call.policy.spare, 0) :]), 0),
            "own_end": next((lease.ends for lease in leases if lease.owner == call.lease_id), 0),
        }
        asked = [answers[name] for name in policy.leases]
        return policy.decide(*(record or [0] * len(policy.record)), *call.event, now, *asked, **config)

    def _write(self, call: Call, verdict: Verdict, now: int) -> None:
        where = call.policy.name, call.key
        width = len(call.policy.record)
        record = verdict[RECORD : RECORD + width]
        before = self.state(call.policy, call.key)
        if verdict[EXPIRES] and record != (before.record or (0,) * width):
            self.records[where] = verdict[EXPIRES], record
        if not call.policy.leases:
            return
        drop, add, ends = verdict[RECORD + width :]
        if drop or add:
            others = [lease for lease in before.leases if lease.owner != call.lease_id]
            mine = [lease for lease in before.leases if lease.owner == call.lease_id][drop:]
            if add > 0:
                mine = [Lease(lease.ends, "") for lease in mine]
            new = [Lease(ends, call.lease_id if add > 0 else "")] * abs(add)
            self.leases[where] = others + mine + new
