"""The generated Lua without a server: Lua 5.1 in this process, over the few commands that the scripts use."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from typing import Any

from lupa.lua51 import LuaRuntime, lua_type
from redis.exceptions import NoScriptError

from ratelimit_core._util.clock import Clock

Stored = bytes | dict[bytes, float]


class LuaServer:
    """Answers the calls that a RedisBackend makes of its client. Keys end by the test's clock.

    ``damage`` is done to each script before it runs.
    """

    def __init__(self, clock: Clock, damage: Callable[[str], str] = str) -> None:
        self.clock = clock
        self.damage = damage
        self.values: dict[bytes, Stored] = {}
        self.ends: dict[bytes, int] = {}
        self.scripts: dict[str, Any] = {}
        self.lua = LuaRuntime(encoding=None, unpack_returned_tuples=True)
        names = self.lua.globals()
        names[b"redis"] = self.lua.table_from({b"call": self._call})
        names[b"struct"] = self.lua.table_from({b"pack": _pack, b"unpack": _unpack})

    # What a client does

    def evalsha(self, sha: str, numkeys: str, *arguments: str | int) -> Any:
        n = int(numkeys)
        if sha not in self.scripts:
            raise NoScriptError("No matching script")
        names = self.lua.globals()
        encoded = [str(argument).encode() for argument in arguments]
        names[b"KEYS"], names[b"ARGV"] = map(self.lua.table_from, (encoded[:n], encoded[n:]))
        return self._to_python(self.scripts[sha]())

    def eval(self, script: str, numkeys: str, *arguments: str | int) -> Any:
        sha = hashlib.sha1(script.encode()).hexdigest()
        self.scripts[sha] = self.lua.compile(self.damage(script).encode())
        return self.evalsha(sha, numkeys, *arguments)

    def get(self, key: str) -> Stored | None:
        return self._get(key.encode())

    def zrangebyscore(self, key: str, low: str, high: str, *, withscores: bool = False) -> list[Any]:
        found = self._zrangebyscore(key.encode(), low.encode(), high.encode(), b"WITHSCORES")
        pairs = list(zip(found[::2], map(float, found[1::2]), strict=True))
        return pairs if withscores else [member for member, _ in pairs]

    def zrevrangebyscore(self, key: str, high: str, low: str) -> list[bytes]:
        return self.zrangebyscore(key, low, high)[::-1]

    # What a server does

    def _call(self, command: bytes, *arguments: bytes | float) -> Any:
        run = getattr(self, f"_{command.decode().lower()}")
        return self._to_lua(run(*(item if isinstance(item, bytes) else _number(item) for item in arguments)))

    def _get(self, key: bytes) -> Stored | None:
        return self.values.get(key) if self.ends.get(key, self.clock() + 1) > self.clock() else None

    def _sorted(self, key: bytes) -> list[tuple[float, bytes]]:
        return sorted((score, member) for member, score in self._zset(key).items())

    def _zset(self, key: bytes) -> dict[bytes, float]:
        stored = self._get(key)
        assert not isinstance(stored, bytes), "WRONGTYPE"
        return stored or {}

    def _set(self, key: bytes, value: bytes, option: bytes, milliseconds: bytes) -> None:
        assert option == b"PX"
        assert int(milliseconds) > 0
        self.values[key] = value
        self.ends[key] = self.clock() + int(milliseconds) * 1000

    def _pexpire(self, key: bytes, milliseconds: bytes) -> int:
        if self._get(key) is None:
            return 0
        self.ends[key] = self.clock() + int(milliseconds) * 1000
        return 1

    def _pttl(self, key: bytes) -> int:
        if self._get(key) is None:
            return -2
        return (self.ends[key] - self.clock()) // 1000 if key in self.ends else -1

    def _put(self, key: bytes, members: dict[bytes, float]) -> None:
        if members:
            if self._get(key) is None:
                self.ends.pop(key, None)
            self.values[key] = members
        else:
            self.values.pop(key, None)
            self.ends.pop(key, None)

    def _zadd(self, key: bytes, *arguments: bytes) -> int:
        *options, score, member = arguments
        members = self._zset(key)
        if member in members and options == [b"NX"]:
            return 0
        self._put(key, {**members, member: float(score)})
        return int(member not in members)

    def _zrem(self, key: bytes, member: bytes) -> int:
        members = self._zset(key)
        self._put(key, {name: score for name, score in members.items() if name != member})
        return int(member in members)

    def _zremrangebyscore(self, key: bytes, low: bytes, high: bytes) -> None:
        inside = _between(low, high)
        self._put(key, {name: score for name, score in self._zset(key).items() if not inside(score)})

    def _zscore(self, key: bytes, member: bytes) -> bytes | None:
        score = self._zset(key).get(member)
        return None if score is None else _number(score)

    def _zcard(self, key: bytes) -> int:
        return len(self._zset(key))

    def _zcount(self, key: bytes, low: bytes, high: bytes) -> int:
        return len(list(filter(_between(low, high), self._zset(key).values())))

    def _zrangebyscore(self, key: bytes, low: bytes, high: bytes, *options: bytes) -> list[bytes]:
        inside = _between(low, high)
        found = [(score, member) for score, member in self._sorted(key) if inside(score)]
        if b"LIMIT" in options:
            at = options.index(b"LIMIT")
            first, count = int(options[at + 1]), int(options[at + 2])
            found = found[first : first + count]
        return _flat(found, b"WITHSCORES" in options)

    def _zrevrange(self, key: bytes, first: bytes, last: bytes, *options: bytes) -> list[bytes]:
        assert int(first) >= 0
        assert int(last) >= 0
        return _flat(self._sorted(key)[::-1][int(first) : int(last) + 1], b"WITHSCORES" in options)

    # Between the two languages

    def _to_lua(self, reply: Any) -> Any:
        if isinstance(reply, list):
            return self.lua.table_from(reply)
        return False if reply is None else reply

    def _to_python(self, value: Any) -> Any:
        if lua_type(value) == "table":
            return [self._to_python(item) for item in value.values()]
        return int(value)


def _number(score: float) -> bytes:
    return b"%.17g" % score


def _flat(found: list[tuple[float, bytes]], with_scores: bool) -> list[bytes]:
    return [item for score, member in found for item in ([member, _number(score)] if with_scores else [member])]


def _between(low: bytes, high: bytes) -> Callable[[float], bool]:
    def inside(score: float) -> bool:
        above = score > float(low[1:]) if low[:1] == b"(" else score >= float(low)
        below = score < float(high[1:]) if high[:1] == b"(" else score <= float(high)
        return above and below

    return inside


def _pack(layout: bytes, *values: float) -> bytes:
    return struct.pack(layout.decode().replace("i8", "q"), *map(int, values))


def _unpack(layout: bytes, data: bytes) -> tuple[int, ...]:
    return (*struct.unpack(layout.decode().replace("i8", "q"), data), len(data) + 1)
