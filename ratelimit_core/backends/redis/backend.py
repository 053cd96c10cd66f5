"""The backend for Redis and Valkey. Generated Lua decides on the server, by the server's clock."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache, partial
from importlib.resources import files
from itertools import islice
from typing import Any

import redis

from ..._util.clock import SECOND, Clock, wall
from ..._util.fork import renewed_after_fork
from ..._util.steps import arun, run
from ...config.breaker import CircuitBreakerConfig
from ...config.sources import setting
from ...errors import BackendError
from ...policies import POLICIES, Policy, Verdict
from ...protocol.call import Call, Key, reject_duplicates
from ...protocol.names import MAX_KEY
from ..base import Backend
from .aio import LoopSession, SessionPerLoop
from .cluster import SlotBatch, apply_per_slot
from .keys import JOURNAL, ClusterKeys, Keys
from .resp import keys as pack_keys
from .resp import pack
from .round_trips import ClusterSession, Command, Script, Session
from .servers import topology

_DAY_S = 24 * 3600


@cache
def script(names: frozenset[str], dry_run: bool = False) -> tuple[str, str]:
    """Return the Lua that decides calls of the policies ``names``, and its SHA-1. A ``dry_run`` writes nothing."""
    package = files("ratelimit_core")
    generated, apply = package / "policies" / "generated" / "lua", package / "backends" / "redis" / "apply.lua"
    parts = [(generated / f"{name}.lua").read_text("utf-8") for name in sorted(names)]
    begin = f"local policies, look = {{}}, {str(dry_run).lower()}"
    text = "\n".join([begin, *parts, apply.read_text("utf-8")])
    return text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


class RedisBackend(Backend):
    """A backend for Redis (6.2 or newer) and Valkey. All processes that use the same server share its state.

    On a single server, each :meth:`apply` is one EVALSHA, for any number of calls. If the server does not have the
    script yet, one EVAL follows. A failed command is not retried. If the server returns an error, or does not reply
    within the timeout, :class:`BackendError` is raised. The guard then decides whether its call may run.

    A forked child opens new connections. Each event loop has its own connections, which close with the loop. At most 32
    calls of a loop are in flight, and further calls wait.

    **Sentinel.** ``redis+sentinel://:password@host:26379,host2:26379/SERVICE?db=0`` means the master of ``SERVICE``.
    Each new connection asks the Sentinels for the master, one after the other, with timeouts of 0.1 s. Until a new
    master is elected, calls raise :class:`BackendError`. The user and the password in the URL are for the Redis
    servers. For the Sentinels, give the option ``sentinel_kwargs``, as in ``{"username": ..., "password": ...}``.

    **Cluster.** ``redis+cluster://:password@host:6379,host2:6379`` uses 64 of the cluster's slots. The name of a record
    selects the slot. Calls in one slot are decided together in one EVALSHA. If a name has a part in braces, only that
    part selects the slot: ``suppliers:{payments}`` is in the slot of ``payments``.

    Calls in several slots are atomic in each slot, but not across slots. For ``n`` slots, they take up to ``2n - 1``
    round trips. First, all slots except one are asked without writing. If one of them denies, no slot is written.
    Otherwise the slots are written one after the other, and the slot of the last call comes last. If a later slot then
    denies the calls or does not answer, the earlier slots stay written.

    For TLS, both URLs begin with ``rediss+``. All URLs take redis-py's options after a ``?``.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://`` as in redis-py, or one of the URLs above. The default is the
            setting ``redis``, a dictionary of redis-py's options (``host``, ``port``, ``db``, ``password``, ...).
        client: a ``redis.Redis`` or ``redis.RedisCluster`` of the application, in place of a URL. The client's own
            timeouts and retries apply. Calls from event loops use the client in threads.
        key_prefix: the beginning of every key. The default is the setting ``key_prefix``. Give applications that should
            not share state different prefixes.
        clock: a function that returns the time in µs, instead of the server's clock; for tests.
        name, enable_circuit_breaker, circuit_breaker_config: as in :class:`Backend`.
        options: passed to redis-py's connections (``socket_timeout``, ``max_connections``, ``ssl_ca_certs``, ...).

    Raises:
        ConfigurationError: the URL or an option is wrong.
    """

    def __init__(
        self,
        url: str = "",
        *,
        client: redis.Redis | redis.RedisCluster | None = None,
        key_prefix: str | None = None,
        clock: Clock | None = None,
        name: str = "",
        enable_circuit_breaker: bool = True,
        circuit_breaker_config: CircuitBreakerConfig | Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            name=name,
            enable_circuit_breaker=enable_circuit_breaker,
            circuit_breaker_config=circuit_breaker_config,
            clock=clock,
        )
        if not url and client is None:
            url, options = "redis://", {**(setting("redis") or {}), **options}
        self._given = client
        self._topology = topology(url, options) if client is None else None
        self._clustered = isinstance(client, redis.RedisCluster) if self._topology is None else self._topology.clustered
        prefix = setting("key_prefix") if key_prefix is None else key_prefix
        self._keys_of = ClusterKeys(prefix) if self._clustered else Keys(prefix)
        self._prefix = self._keys_of.prefix
        self._cached_keys = lru_cache(maxsize=5_000)(self._keys_of.of)
        self._packed_keys = lru_cache(maxsize=5_000)(self._pack_keys)
        self._clock = clock
        self._packs = self._topology is not None and not self._clustered and clock is None
        self._renew()
        _instances.add(self)

    def _apply(self, calls: Sequence[Call]) -> list[Verdict]:
        reject_duplicates(calls)
        if self._packs:
            return _verdicts(calls, self._session.send(self._pack(calls), partial(self._script, calls)))
        if self._clustered and calls:
            return run(apply_per_slot(calls), self._evaluate)
        return self._evaluate(SlotBatch(calls))

    async def _aapply(self, calls: Sequence[Call]) -> list[Verdict]:
        if self._loops is None:
            return await super()._aapply(calls)
        reject_duplicates(calls)
        session = self._loops.current()
        if self._clustered and calls:
            return await arun(apply_per_slot(calls), partial(self._aevaluate, session))
        return _verdicts(calls, await session.evaluate(self._script(calls)))

    def _evaluate(self, batch: SlotBatch) -> list[Verdict]:
        return _verdicts(batch.calls, self._session.evaluate(self._script(*batch)))

    async def _aevaluate(self, session: LoopSession, batch: SlotBatch) -> list[Verdict]:
        return _verdicts(batch.calls, await session.evaluate(self._script(*batch)))

    def _pack(self, calls: Sequence[Call]) -> bytes:
        _, sha = script(frozenset([call.policy.name for call in calls]))
        keys = [
            (self._packed_keys if _is_cacheable(key) else self._pack_keys)(policy, key) for policy, key, *_ in calls
        ]
        return pack(sha, calls, keys)

    def _pack_keys(self, policy: Policy, key: Key) -> tuple[int, bytes]:
        return pack_keys(self._keys_of.of(policy, key))

    def _script(self, calls: Sequence[Call], dry_run: bool = False) -> Script:
        keys: list[str] = []
        arguments: list[str | int] = ["" if self._clock is None else self._clock()]
        for policy, key, event, config, lease_id in calls:
            keys += (self._cached_keys if _is_cacheable(key) else self._keys_of.of)(policy, key)
            arguments += (policy.name, lease_id, *event, *config)
        lua, sha = script(frozenset([call.policy.name for call in calls]), dry_run)
        # Arguments are strings, because hiredis crashes if a signal handler raises while hiredis converts numbers.
        return lua, sha, [str(len(keys)), *keys, *map(str, arguments)]

    def _delete(self, policy: Policy, keys: Sequence[Key]) -> None:
        listed: dict[str, list[str]] = {}
        for key in keys:
            listed.setdefault(self._keys_of.index(policy.name, key[0]), []).append(self._keys_of.record(policy, key)[0])
        self._session.execute([command for index in listed for command in self._deletion(policy, index, listed[index])])

    def _keys(self, policy: Policy, most: int | None) -> list[Key]:
        now = self._clock() if self._clock else self._session.time()
        part = () if most is None else (0, most)
        found = self._session.execute(
            [("zrevrangebyscore", index, "+inf", f"({now}", *part) for index in self._keys_of.indexes(policy.name)]
        )
        members = (member for members in found for member in members)
        return [self._keys_of.parse(_text(member)) for member in islice(members, most)]

    def _clear(self) -> None:
        kinds = [(policy, index) for policy in (*POLICIES.values(), None) for index in self._indexes(policy)]
        found = self._session.execute([("zrange", index, 0, -1) for _, index in kinds])
        commands: list[Command] = []
        for (policy, index), members in zip(kinds, found, strict=True):
            commands += self._deletion(policy, index, [_text(member) for member in members])
        self._session.execute(commands)

    def _append(self, key: Key, entry: str, keep: int, seconds: int) -> None:
        journal, index = self._keys_of.journal(key), self._keys_of.index(JOURNAL, key[0])
        now = wall()
        *_, listed_for = self._session.execute(
            [
                ("lpush", journal, entry),
                ("ltrim", journal, 0, keep - 1),
                ("expire", journal, seconds),
                ("zadd", index, {journal: now + seconds * SECOND}),
                ("zremrangebyscore", index, "-inf", now - _DAY_S * SECOND),
                ("ttl", index),
            ]
        )
        if listed_for < seconds:  # true about once a day, since the index is kept a day longer than needed
            self._session.execute([("expire", index, seconds + _DAY_S)])

    def _entries(self, key: Key) -> list[str]:
        return [_text(entry) for entry in self._session.execute([("lrange", self._keys_of.journal(key), 0, -1)])[0]]

    def _indexes(self, policy: Policy | None) -> list[str]:
        return self._keys_of.indexes(JOURNAL if policy is None else policy.name)

    def _deletion(self, policy: Policy | None, index: str, listed: Sequence[str]) -> list[Command]:
        """Return the commands that delete records of a policy, or journals (None), and their entries in the index."""
        keys = listed if policy is None else [key for first in listed for key in self._keys_of.beside(policy, first)]
        return [("delete", *keys), ("zrem", index, *listed)] if listed else []

    def _renew(self) -> None:
        """Make new sessions. A session connects at its first use."""
        self._loops: SessionPerLoop | None = None
        if self._topology is None:
            self._session = (ClusterSession if self._clustered else Session)(self._given)
        else:
            self._session = (ClusterSession if self._clustered else Session)(None, self._topology)
            self._loops = SessionPerLoop(self._topology)

    def info(self) -> dict[str, Any]:
        """Return the server's answer to ``INFO``. Costs one round trip.

        For a cluster, return ``{}`` without a round trip, because the cluster's servers differ.

        Raises:
            BackendError: the server does not answer.
        """
        return {} if self._clustered else dict(self._session.execute([("info",)])[0])

    def close(self) -> None:
        """Close the connections that threads use. The connections of an event loop close with the loop."""
        self._session.close()

    def _after_fork(self) -> None:
        _leaked_on_fork.append((self._session, self._loops))
        self._renew()


def _is_cacheable(key: Key) -> bool:
    """Return whether the Redis keys of ``key`` may be cached. Long and shortened names are not cached."""
    return type(key[0]) is type(key[1]) is str and len(key[0]) <= MAX_KEY


_NUMBERS = {int}


def _verdicts(calls: Sequence[Call], answer: Any) -> list[Verdict]:
    """Return the verdicts in ``answer``.

    Raises:
        BackendError: ``answer`` does not have the form of verdicts on ``calls``.
    """
    verdicts = [tuple(verdict) for verdict in answer] if type(answer) is list else []
    if [len(verdict) for verdict in verdicts] != [call.policy.answers for call in calls] or any(
        {*map(type, verdict)} != _NUMBERS for verdict in verdicts
    ):
        raise BackendError(f"Redis: the script's answer to {len(calls)} calls is invalid: {answer!r:.200}")
    return verdicts


def _text(member: bytes | str) -> str:
    return member if isinstance(member, str) else member.decode()


_instances = renewed_after_fork(RedisBackend._after_fork)
_leaked_on_fork: list[Any] = []
"""In a forked child, the sessions of the parent. They are never freed: a thread of the parent may hold their locks."""
