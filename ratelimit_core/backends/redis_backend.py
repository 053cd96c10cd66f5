"""Redis and Valkey: the generated Lua decides, on the server's clock, in one EVALSHA."""

from __future__ import annotations

import hashlib
import os
import weakref
from collections.abc import Sequence
from functools import cache, partial
from importlib.resources import files
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ..clock import Clock
from ..errors import BackendError
from ..policies import POLICIES, Policy, Verdict
from .base import Backend, Call, escape, refuse_duplicates, unescape

TIMEOUT = 0.25
"""Seconds to wait for a connection and for a reply, unless the URL or an option says otherwise."""


@cache
def script(names: frozenset[str]) -> tuple[str, str]:
    """The Lua that decides the policies ``names``, and its SHA-1."""
    lua = files("ratelimit_core") / "lua"
    parts = [(lua / f"{name}.lua").read_text("utf-8") for name in sorted(names)]
    text = "\n".join(["local policies = {}", *parts, (lua / "apply.lua").read_text("utf-8")])
    return text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


class RedisBackend(Backend):
    """State shared through one Redis (6.2 or newer) or Valkey server.

    Every :meth:`apply` is one round trip, whatever the number of calls. Connections are redis-py's own pool:
    thread-safe; in a forked child it is another one. Nothing is retried here: an error or a reply that does not
    come within the timeout is a :class:`BackendError` at once, and the guard decides what that means.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``, as redis-py takes it.
        client: a ``redis.Redis`` of your own instead of a URL; its timeouts and retries are yours then.
        key_prefix: what every key starts with. Two applications that must not meet take two prefixes.
        clock: decides instead of the server's clock; for tests.
        options: handed to redis-py's connection pool (``socket_timeout``, ``max_connections``, ...).
    """

    def __init__(
        self,
        url: str = "redis://localhost:6379/0",
        *,
        client: redis.Redis | None = None,
        key_prefix: str = "resilient",
        clock: Clock | None = None,
        **options: Any,
    ) -> None:
        defaults = {
            "socket_timeout": TIMEOUT,
            "socket_connect_timeout": TIMEOUT,
            "retry": Retry(NoBackoff(), 0),
        }
        self._connect = None if client else partial(redis.Redis.from_url, url, **{**defaults, **options})
        self._client: Any = client
        self._renew()
        self._prefix = escape(key_prefix).replace("%3A", ":")
        self._clock = clock
        _instances.add(self)

    def apply(self, calls: Sequence[Call]) -> list[Verdict]:
        """Decide ``calls`` in one EVALSHA (two commands the first time a server sees the script)."""
        refuse_duplicates(calls)
        keys: list[str] = []
        arguments: list[str | int] = ["" if self._clock is None else self._clock()]
        for call in calls:
            policy = call.policy
            keys += self._keys(policy, call.key)
            keys.append(self._index(policy))
            arguments += (policy.name, call.ticket, *call.event, *call.config)
        text, sha = script(frozenset([call.policy.name for call in calls]))
        try:
            try:
                verdicts = self._client.evalsha(sha, len(keys), *keys, *arguments)
            except redis.exceptions.NoScriptError:
                verdicts = self._client.eval(text, len(keys), *keys, *arguments)
            return [tuple(verdict) for verdict in verdicts]
        except redis.RedisError as error:
            raise _unavailable(error) from error

    def delete(self, policy: Policy, keys: Sequence[tuple[str, str]]) -> None:
        """Forget these records and their leases, with one DEL and one ZREM in a pipeline."""
        self._forget(policy, [self._keys(policy, key) for key in keys])

    def keys(self, policy: Policy) -> list[tuple[str, str]]:
        """The records of ``policy`` that are in use, from the index: two commands."""
        try:
            now = self._clock() if self._clock else _time(self._client)
            members = self._client.zrangebyscore(self._index(policy), f"({now}", "+inf")
        except redis.RedisError as error:
            raise _unavailable(error) from error
        return [self._parse(policy, _text(member)) for member in members]

    def clear(self) -> None:
        """Forget all that the index lists."""
        for policy in POLICIES.values():
            try:
                members = self._client.zrange(self._index(policy), 0, -1)
            except redis.RedisError as error:
                raise _unavailable(error) from error
            self._forget(policy, [_beside(policy, _text(member)) for member in members])

    def _forget(self, policy: Policy, stored: Sequence[list[str]]) -> None:
        if not stored:
            return
        try:
            with self._client.pipeline(transaction=False) as pipe:
                pipe.delete(*(name for names in stored for name in names))
                pipe.zrem(self._index(policy), *(names[0] for names in stored))
                pipe.execute()
        except redis.RedisError as error:
            raise _unavailable(error) from error

    def _renew(self) -> None:
        """Have connections of one's own, also in a forked child.

        There the parent's pool may be locked by a thread that the child does not have. It is kept, since
        whoever collects it would wait for that lock.
        """
        if self._connect is not None:
            self._abandoned, self._client = self._client, self._connect()
            pool = self._client.connection_pool
            pool.connection_class(**pool.connection_kwargs)  # a wrong option is refused here, not when it connects

    def close(self) -> None:
        """Close the pool's connections."""
        self._client.close()

    # Keys: `prefix:{name}:policy:qualifier`, and `...:leases` beside a record. One name, one hash tag.

    def _keys(self, policy: Policy, key: tuple[str, str]) -> list[str]:
        name, qualifier = key
        return _beside(policy, f"{self._prefix}:{{{escape(name)}}}:{policy.name}:{escape(qualifier)}")

    def _index(self, policy: Policy) -> str:
        return f"{self._prefix}:index:{policy.name}"

    def _parse(self, policy: Policy, key: str) -> tuple[str, str]:
        name, _, qualifier = key[len(self._prefix) + 2 :].partition(f"}}:{policy.name}:")
        return unescape(name), unescape(qualifier)


def _beside(policy: Policy, first: str) -> list[str]:
    """The keys of one record, of which ``first`` is the one that the index lists."""
    return [first, f"{first}:leases"] if policy.record and policy.leases else [first]


def _text(member: bytes | str) -> str:
    return member if isinstance(member, str) else member.decode()


def _time(client: redis.Redis) -> int:
    seconds, fraction = client.time()
    return int(seconds) * 1_000_000 + int(fraction)


def _unavailable(error: redis.RedisError) -> BackendError:
    return BackendError(f"Redis: {type(error).__name__}: {error}")


_instances: weakref.WeakSet[RedisBackend] = weakref.WeakSet()


def _after_fork() -> None:
    for backend in list(_instances):
        backend._renew()


os.register_at_fork(after_in_child=_after_fork)
