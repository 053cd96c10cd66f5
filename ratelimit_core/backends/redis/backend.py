"""The backend for Redis and Valkey. Generated Lua decides on the server, by the server's clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from itertools import islice
from typing import Any

import redis

from ..._util.clock import SECOND, Clock, wall
from ..._util.fork import renewed_after_fork
from ..._util.steps import arun, run
from ...config.breaker import CircuitBreakerConfig
from ...config.sources import setting
from ...policies import POLICIES, Policy, Verdict
from ...protocol.call import Call, Key, reject_duplicates
from ...protocol.names import MAX_KEY
from ..base import Backend
from ..batches import Batches
from .aio import LoopSession, SessionPerLoop
from .cluster import SlotBatch, SlotBatches, apply_each_per_slot, apply_per_slot
from .keys import JOURNAL, ClusterKeys, Keys
from .resp import keys as pack_keys
from .resp import pack, pack_each
from .round_trips import ClusterSession, Command, Script, Session
from .scripts import script, script_for_each, verdicts, verdicts_of_each
from .servers import topology

_DAY_S = 24 * 3600


class RedisBackend(Backend):
    """A backend for Redis (6.2 or newer) and Valkey. All processes that use the same server share its state.

    Each :meth:`apply` or :meth:`apply_each` is one EVALSHA, for any number of calls. If the server does not have the
    script yet, one EVAL follows. A failed command is not retried. If the server returns an error, or does not reply
    within the timeout, :class:`BackendError` is raised at once. The guard then decides whether its call may run.

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

    :meth:`apply_each` decides all batches in one slot in one EVALSHA, in their order, when the first of them is due. A
    batch in several slots is decided alone, as by :meth:`apply`. So the order is kept within a slot, and not across
    slots, each of which has its own time. ``most`` holds for all slots together: later slots are then not asked. If a
    slot does not answer, the batches in earlier slots stay decided.

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
            return verdicts(calls, self._session.send(self._pack(calls), partial(self._script, calls)))
        if self._clustered and calls:
            return run(apply_per_slot(calls), self._evaluate)
        return verdicts(calls, self._session.evaluate(self._script(calls)))

    def _apply_each(self, batches: Batches, most: int | None) -> list[list[Verdict]]:
        if self._clustered:
            return run(apply_each_per_slot(batches, most), self._evaluate_each)
        if self._packs:
            again = partial(self._script_for_each, batches, most)
            return verdicts_of_each(batches, most, self._session.send(self._pack_each(batches, most), again))
        return verdicts_of_each(batches, most, self._session.evaluate(self._script_for_each(batches, most)))

    async def _aapply(self, calls: Sequence[Call]) -> list[Verdict]:
        if self._loops is None:
            return await super()._aapply(calls)
        reject_duplicates(calls)
        session = self._loops.current()
        if self._clustered and calls:
            return await arun(apply_per_slot(calls), partial(self._aevaluate, session))
        return verdicts(calls, await session.evaluate(self._script(calls)))

    async def _aapply_each(self, batches: Batches, most: int | None) -> list[list[Verdict]]:
        if self._loops is None:
            return await super()._aapply_each(batches, most)
        session = self._loops.current()
        if self._clustered:
            return await arun(apply_each_per_slot(batches, most), partial(self._aevaluate_each, session))
        return verdicts_of_each(batches, most, await session.evaluate(self._script_for_each(batches, most)))

    def _evaluate(self, asked: SlotBatch) -> list[Verdict]:
        return verdicts(asked.calls, self._session.evaluate(self._script(*asked)))

    def _evaluate_each(self, asked: SlotBatch | SlotBatches) -> Any:
        if isinstance(asked, SlotBatch):
            return self._evaluate(asked)
        return verdicts_of_each(*asked, self._session.evaluate(self._script_for_each(*asked)))

    async def _aevaluate(self, session: LoopSession, asked: SlotBatch) -> list[Verdict]:
        return verdicts(asked.calls, await session.evaluate(self._script(*asked)))

    async def _aevaluate_each(self, session: LoopSession, asked: SlotBatch | SlotBatches) -> Any:
        if isinstance(asked, SlotBatch):
            return await self._aevaluate(session, asked)
        return verdicts_of_each(*asked, await session.evaluate(self._script_for_each(*asked)))

    def _pack(self, calls: Sequence[Call]) -> bytes:
        _, sha = script(frozenset([call.policy.name for call in calls]))
        return pack(sha, calls, self._packed_keys_of(calls))

    def _pack_each(self, batches: Batches, most: int | None) -> bytes:
        _, sha = script_for_each(_policies_of_each(batches))
        return pack_each(sha, batches, [keys for calls in batches for keys in self._packed_keys_of(calls)], most)

    def _packed_keys_of(self, calls: Sequence[Call]) -> list[tuple[int, bytes]]:
        return [
            (self._packed_keys if _is_cacheable(key) else self._pack_keys)(policy, key) for policy, key, *_ in calls
        ]

    def _pack_keys(self, policy: Policy, key: Key) -> tuple[int, bytes]:
        return pack_keys(self._keys_of.of(policy, key))

    def _script(self, calls: Sequence[Call], dry_run: bool = False) -> Script:
        keys, arguments = self._parameters(calls)
        lua, sha = script(frozenset([call.policy.name for call in calls]), dry_run)
        # Arguments are strings, because hiredis crashes if a signal handler raises while hiredis converts numbers.
        return lua, sha, [str(len(keys)), *keys, self._time(), *map(str, arguments)]

    def _script_for_each(self, batches: Batches, most: int | None) -> Script:
        keys: list[str] = []
        arguments: list[str | int] = [self._time(), "" if most is None else most]
        for calls in batches:
            of_batch, parameters = self._parameters(calls)
            keys += of_batch
            arguments += (len(parameters), *parameters)
        lua, sha = script_for_each(_policies_of_each(batches))
        return lua, sha, [str(len(keys)), *keys, *map(str, arguments)]

    def _parameters(self, calls: Sequence[Call]) -> tuple[list[str], list[str | int]]:
        """Return the keys and the arguments of a batch."""
        keys: list[str] = []
        arguments: list[str | int] = []
        for policy, key, event, config, lease_id in calls:
            keys += (self._cached_keys if _is_cacheable(key) else self._keys_of.of)(policy, key)
            arguments += (policy.name, lease_id, *event, *config)
        return keys, arguments

    def _time(self) -> str:
        return "" if self._clock is None else str(self._clock())

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


def _policies_of_each(batches: Batches) -> frozenset[str]:
    return frozenset([call.policy.name for calls in batches for call in calls])


def _text(member: bytes | str) -> str:
    return member if isinstance(member, str) else member.decode()


_instances = renewed_after_fork(RedisBackend._after_fork)
_leaked_on_fork: list[Any] = []
"""In a forked child, the sessions of the parent. They are never freed: a thread of the parent may hold their locks."""
