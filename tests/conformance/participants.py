"""Who has to agree: the reference, and every store there is, all on the test's clock."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from django.db import connections

from ratelimit_core._util.clock import SECOND, Clock
from ratelimit_core.backends import Backend, Call, DatabaseBackend, MemoryBackend, MultiBackend, RedisBackend
from ratelimit_core.backends.database.sql import LEASES, RECORDS, collation_safe, row
from ratelimit_core.policies import LIMITS, Policy, Verdict
from ratelimit_core.policies.token_bucket import HIT

from .lua import LuaServer
from .reference import Key, Lease, Reference, State


class Participant(Protocol):
    finest: int
    """The shortest span, in µs, that may be asked of it."""

    def apply(self, calls: Sequence[Call]) -> list[Verdict]: ...

    def apply_each(self, batches: Sequence[Sequence[Call]], most: int | None) -> list[list[Verdict]]: ...

    def state(self, policy: Policy, key: Key) -> State: ...

    def place(self, name: str) -> int:
        """Where the records of ``name`` are, if that is not everywhere the same."""

    def keys(self, policy: Policy) -> set[Key]: ...


class InMemory:
    finest = 1

    def __init__(self, clock: Clock, backend: Backend | None = None, memory: MemoryBackend | None = None) -> None:
        self.clock = clock
        self.memory = memory or MemoryBackend(clock=clock)
        self.backend = backend or self.memory

    def __repr__(self) -> str:
        return self.backend.name

    def apply(self, calls: Sequence[Call]) -> list[Verdict]:
        return self.backend.apply(calls)

    def apply_each(self, batches: Sequence[Sequence[Call]], most: int | None) -> list[list[Verdict]]:
        return self.backend.apply_each(batches, most)

    def place(self, name: str) -> int:
        return 0

    def state(self, policy: Policy, key: Key) -> State:
        entries = self.memory._records._entries.get(policy.name)
        entry = entries.get(key) if entries else None
        if entry is None:
            return State((), 0, [])
        return _in_use(self.clock(), entry.record, entry.expires, entry.leases.ends)

    def keys(self, policy: Policy) -> set[Key]:
        return set(self.backend.keys(policy))


class InQuickMemory(InMemory):
    """Asked for hits in the way that a limiter asks: alone, at a cost of 1, with an id each."""

    def __repr__(self) -> str:
        return "the memory, quickly"

    def apply(self, calls: Sequence[Call]) -> list[Verdict]:
        if len(calls) > 1 or not self._is_hit(calls[0]):
            return super().apply(calls)
        hit = self.memory.hit(calls[0])
        assert hit is not None
        return [hit(calls[0].key[0], calls[0].lease_id)]

    def _is_hit(self, call: Call) -> bool:
        event = dict(zip(call.policy.event, call.event, strict=True))
        if call.policy not in LIMITS or (event["op"], event["cost"]) != (HIT, 1) or event.get("not_before"):
            return False
        return all(lease.owner != call.lease_id for lease in self.state(call.policy, call.key).leases)


class InRedis:
    """Any server that a RedisBackend can talk to. Its own clock ends its keys, so spans must outlast the test."""

    def __init__(self, name: str, client: Any, prefix: str, clock: Clock, finest: int = 60 * SECOND) -> None:
        self.name = name
        self.clock = clock
        self.client = client
        self.finest = finest
        self.backend = RedisBackend(client=client, key_prefix=prefix, clock=clock)

    def __repr__(self) -> str:
        return self.name

    def apply(self, calls: Sequence[Call]) -> list[Verdict]:
        return self.backend.apply(calls)

    def apply_each(self, batches: Sequence[Sequence[Call]], most: int | None) -> list[list[Verdict]]:
        return self.backend.apply_each(batches, most)

    def place(self, name: str) -> int:
        return 0

    def state(self, policy: Policy, key: Key) -> State:
        stored = self.backend._keys_of.record(policy, key)
        record: tuple[int, ...] = ()
        expires = 0
        data = self.client.get(stored[0]) if policy.record else None
        if data is not None:
            _, expires, *fields = struct.unpack(f">B{1 + len(policy.record)}q", data)
            record = tuple(fields)
        leases: dict[str, int] = {}
        if policy.leases:
            found = self.client.zrangebyscore(stored[-1], "-inf", "+inf", withscores=True)
            leases = {member.decode(): int(score) for member, score in found}
        return _in_use(self.clock(), record, expires, leases)

    def keys(self, policy: Policy) -> set[Key]:
        return set(self.backend.keys(policy))


class InDatabase:
    """A :class:`DatabaseBackend` on the test's clock. Lease ids are short and in small letters."""

    finest = 1

    def __init__(self, alias: str, prefix: str, clock: Clock, asked: DatabaseBackend) -> None:
        """With the sessions of one that was asked before: so whatever it may have made there is used."""
        self.alias, self.prefix, self.clock = alias, prefix, clock
        self.backend = DatabaseBackend(alias, key_prefix=prefix, clock=clock, timeout=20)
        self.backend._executor.threads, self.backend._sessions = asked._executor.threads, asked._sessions

    def __repr__(self) -> str:
        return self.alias

    def apply(self, calls: Sequence[Call]) -> list[Verdict]:
        return self.backend.apply(calls)

    def apply_each(self, batches: Sequence[Sequence[Call]], most: int | None) -> list[list[Verdict]]:
        return self.backend.apply_each(batches, most)

    def place(self, name: str) -> int:
        return 0

    def keys(self, policy: Policy) -> set[Key]:
        return set(self.backend.keys(policy))

    def state(self, policy: Policy, key: Key) -> State:
        """What is in use, from the tables."""
        record, now = row(collation_safe(self.prefix), policy.name, key).id, self.clock()
        with connections[self.alias].cursor() as cursor:
            cursor.execute(f"SELECT expires, data FROM {RECORDS} WHERE id = %s AND expires > %s", [record, now])
            expires, data = cursor.fetchone() or (0, "")
            cursor.execute(f"SELECT ends, owner FROM {LEASES} WHERE record = %s AND ends > %s", [record, now])
            leases = [Lease(ends, owner) for ends, owner in cursor.fetchall()]
        return State(tuple(map(int, data.split())), expires, sorted(leases))


class InSeveral:
    """Several of the others as one."""

    def __init__(self, members: Sequence[InMemory | InRedis], strategy: str) -> None:
        self.members = members
        self.finest = max(member.finest for member in members)
        self.backend = MultiBackend([member.backend for member in members], strategy=strategy)

    def __repr__(self) -> str:
        return f"{self.backend.strategy} of {self.members}"

    def apply(self, calls: Sequence[Call]) -> list[Verdict]:
        return self.backend.apply(calls)

    def apply_each(self, batches: Sequence[Sequence[Call]], most: int | None) -> list[list[Verdict]]:
        return self.backend.apply_each(batches, most)

    def place(self, name: str) -> int:
        return self.backend._primary_index(name)

    def state(self, policy: Policy, key: Key) -> State:
        return self.members[self.backend._primary_index(key[0])].state(policy, key)

    def keys(self, policy: Policy) -> set[Key]:
        return set(self.backend.keys(policy))


def in_multi(clock: Clock) -> InMemory:
    """Before a store that is unavailable: behind one, a mode would be refused."""
    memory = InMemory(clock)
    away = RedisBackend("redis://127.0.0.1:1/0", circuit_breaker_config={"failure_threshold": 1})
    return InMemory(clock, MultiBackend([memory.memory, away]), memory.memory)


def in_lua(clock: Clock, damage: Callable[[str], str] = str) -> InRedis:
    return InRedis("the generated Lua", LuaServer(clock, damage), "lua", clock, finest=1)


def _in_use(now: int, record: tuple[int, ...], expires: int, leases: dict[str, int]) -> State:
    if expires <= now:
        record, expires = (), 0
    held = [Lease(ends, _owner(member)) for member, ends in leases.items() if ends > now]
    return State(record, expires, sorted(held))


def _owner(member: str) -> str:
    return "" if "!" in member else member.partition("/")[0]


__all__ = [
    "InDatabase",
    "InMemory",
    "InQuickMemory",
    "InRedis",
    "InSeveral",
    "Participant",
    "Reference",
    "in_lua",
    "in_multi",
]
