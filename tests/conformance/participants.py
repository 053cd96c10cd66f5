"""Who has to agree: the reference, and every store there is, all on the test's clock."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ratelimit_core.backends import Call, MemoryBackend, RedisBackend
from ratelimit_core.clock import SECOND, Clock
from ratelimit_core.policies import Policy, Verdict

from .lua import LuaServer
from .reference import Key, Lease, Reference, State


class Participant(Protocol):
    finest: int
    """The shortest span, in µs, that may be asked of it."""

    def apply(self, calls: Sequence[Call]) -> list[Verdict]: ...

    def state(self, policy: Policy, key: Key) -> State: ...

    def keys(self, policy: Policy) -> set[Key]: ...


class InMemory:
    finest = 1

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.backend = MemoryBackend(clock=clock)

    def __repr__(self) -> str:
        return "MemoryBackend"

    def apply(self, calls: Sequence[Call]) -> list[Verdict]:
        return self.backend.apply(calls)

    def state(self, policy: Policy, key: Key) -> State:
        entry = self.backend._entries.get((policy.name, key))
        if entry is None:
            return State((), 0, [])
        return _in_use(self.clock(), entry.record, entry.expires, entry.leases.ends)

    def keys(self, policy: Policy) -> set[Key]:
        return set(self.backend.keys(policy))


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

    def state(self, policy: Policy, key: Key) -> State:
        stored = self.backend._keys(policy, key)
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


def in_lua(clock: Clock, damage: Callable[[str], str] = str) -> InRedis:
    return InRedis("the generated Lua", LuaServer(clock, damage), "lua", clock, finest=1)


def _in_use(now: int, record: tuple[int, ...], expires: int, leases: dict[str, int]) -> State:
    if expires <= now:
        record, expires = (), 0
    held = [Lease(ends, _owner(member)) for member, ends in leases.items() if ends > now]
    return State(record, expires, sorted(held))


def _owner(member: str) -> str:
    return "" if "!" in member else member.partition("/")[0]


__all__ = ["InMemory", "InRedis", "Participant", "Reference", "in_lua"]
