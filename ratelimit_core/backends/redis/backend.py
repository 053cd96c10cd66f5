"""Redis and Valkey: the generated Lua decides, on the server's clock, in one EVALSHA."""

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
from ...config.breaker import CircuitBreakerConfig
from ...config.sources import setting
from ...errors import BackendError
from ...policies import POLICIES, Policy, Verdict
from ...protocol.call import Call, Key, refuse_duplicates
from ...protocol.names import MAX_KEY
from ..base import Backend
from .aio import LoopSessions
from .cluster import in_turn
from .keys import JOURNAL, ClusterKeys, Keys
from .resp import keys as pack_keys
from .resp import pack
from .servers import servers
from .session import ClusterSession, Command, Script, Session

_DAY = 24 * 3600


@cache
def script(names: frozenset[str], look: bool = False) -> tuple[str, str]:
    """The Lua that decides the policies ``names``, and its SHA-1. With ``look`` it writes nothing."""
    lua = files("ratelimit_core") / "lua"
    parts = [(lua / f"{name}.lua").read_text("utf-8") for name in sorted(names)]
    begin = f"local policies, look = {{}}, {str(look).lower()}"
    text = "\n".join([begin, *parts, (lua / "apply.lua").read_text("utf-8")])
    return text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


class RedisBackend(Backend):
    """State shared through Redis (6.2 or newer) or Valkey.

    Every :meth:`apply` is one EVALSHA, whatever the number of calls (two commands the first time a server sees
    the script). Connections are redis-py's own pool: thread-safe; in a forked child it is another one. An event loop
    has connections of its own, which end with it, and at most 32 questions under way. Nothing is retried here: an
    error, or a reply that does not come within the timeout, is a :class:`BackendError` at once, and the guard decides
    what that means.

    **Sentinel.** ``redis+sentinel://:password@host:26379,host2:26379/SERVICE?db=0`` asks for the master at every new
    connection, one Sentinel after the other, each for at most 0.1 s. Until a new master is elected, calls are errors.
    User and password are the servers'; those of the Sentinels go into the option ``sentinel_kwargs``, a dictionary.

    **Cluster.** ``redis+cluster://:password@host:6379,host2:6379`` uses 64 slots: the name chooses one, and calls of
    one name are decided together in one EVALSHA. So are those of names with a common tag: of a name with a part in
    braces, as in ``suppliers:{payments}``, only that part chooses, and it meets what is just called ``payments``.
    Other calls are atomic slot by slot, with the slot of the last call last, and cost two round trips for each slot,
    less one: all but the first slot are asked without writing, and where one of them denies nothing is written
    anywhere. Only if another process takes the last place in between is there a denial that leaves written what was
    decided before it; an error may do so as well.

    Both take ``rediss+...`` for TLS, and redis-py's options behind a ``?``, as the others do.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``, as redis-py takes it, or one of the above; by default what the
            setting ``redis`` says, a dictionary of redis-py's options (``host``, ``port``, ``db``, ``password``, ...).
        client: a ``redis.Redis`` or ``redis.RedisCluster`` of your own instead of a URL; its timeouts and retries are
            yours then, and event loops use it in threads.
        key_prefix: what every key starts with; the setting ``key_prefix`` by default. Two applications that must not
            meet take two prefixes.
        clock: decides instead of the server's clock; for tests.
        name, enable_circuit_breaker, circuit_breaker_config: as in :class:`Backend`.
        options: handed to redis-py's connections (``socket_timeout``, ``max_connections``, ``ssl_ca_certs``, ...).

    Raises:
        ConfigurationError: the URL or an option makes no sense.
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
        self._servers = None if client is not None else servers(url, options)
        self._clustered = isinstance(client, redis.RedisCluster) if self._servers is None else self._servers.clustered
        prefix = setting("key_prefix") if key_prefix is None else key_prefix
        self._named = ClusterKeys(prefix) if self._clustered else Keys(prefix)
        self._prefix = self._named.prefix
        self._names = self._named.record
        self._asked = lru_cache(maxsize=5_000)(self._named.of)
        self._packed_keys = lru_cache(maxsize=5_000)(self._pack_keys)
        self._clock = clock
        self._packs = self._servers is not None and not self._clustered and clock is None
        self._renew()
        _instances.add(self)

    def _apply(self, calls: Sequence[Call]) -> list[Verdict]:
        refuse_duplicates(calls)
        if not self._clustered or not calls:
            asked = partial(self._script, calls)
            session = self._session
            return _verdicts(
                calls, session.send(self._pack(calls), asked) if self._packs else session.evaluate(asked())
            )
        turns = in_turn(calls)
        question = next(turns)
        while True:
            answers = _verdicts(question[0], self._session.evaluate(self._script(*question)))
            try:
                question = turns.send(answers)
            except StopIteration as end:
                return list(end.value)

    async def _aapply(self, calls: Sequence[Call]) -> list[Verdict]:
        if self._loops is None:
            return await super()._aapply(calls)
        refuse_duplicates(calls)
        session = self._loops.current()
        if not self._clustered or not calls:
            return _verdicts(calls, await session.evaluate(self._script(calls)))
        turns = in_turn(calls)
        question = next(turns)
        while True:
            answers = _verdicts(question[0], await session.evaluate(self._script(*question)))
            try:
                question = turns.send(answers)
            except StopIteration as end:
                return list(end.value)

    def _pack(self, calls: Sequence[Call]) -> bytes:
        _, sha = script(frozenset([call.policy.name for call in calls]))
        named = [
            (self._packed_keys if _is_ordinary(key) else self._pack_keys)(policy, key) for policy, key, *_ in calls
        ]
        return pack(sha, calls, named)

    def _pack_keys(self, policy: Policy, key: Key) -> tuple[int, bytes]:
        return pack_keys(self._named.of(policy, key))

    def _script(self, calls: Sequence[Call], look: bool = False) -> Script:
        keys: list[str] = []
        arguments: list[str | int] = ["" if self._clock is None else self._clock()]
        for policy, key, event, config, ticket in calls:
            keys += (self._asked if _is_ordinary(key) else self._named.of)(policy, key)
            arguments += (policy.name, ticket, *event, *config)
        lua, sha = script(frozenset([call.policy.name for call in calls]), look)
        # Text, since hiredis crashes where a signal's handler raises while it makes numbers into text.
        return lua, sha, [str(len(keys)), *keys, *map(str, arguments)]

    def _delete(self, policy: Policy, keys: Sequence[Key]) -> None:
        listed: dict[str, list[str]] = {}
        for key in keys:
            listed.setdefault(self._named.index(policy.name, key[0]), []).append(self._names(policy, key)[0])
        self._session.run([command for index in listed for command in self._forgetting(policy, index, listed[index])])

    def _keys(self, policy: Policy, most: int | None) -> list[Key]:
        now = self._clock() if self._clock else self._session.time()
        part = () if most is None else (0, most)
        found = self._session.run(
            [("zrevrangebyscore", index, "+inf", f"({now}", *part) for index in self._named.indexes(policy.name)]
        )
        members = (member for members in found for member in members)
        return [self._named.parse(_text(member)) for member in islice(members, most)]

    def _clear(self) -> None:
        kinds = [(policy, index) for policy in (*POLICIES.values(), None) for index in self._indexes(policy)]
        found = self._session.run([("zrange", index, 0, -1) for _, index in kinds])
        commands: list[Command] = []
        for (policy, index), members in zip(kinds, found, strict=True):
            commands += self._forgetting(policy, index, [_text(member) for member in members])
        self._session.run(commands)

    def _append(self, key: Key, entry: str, keep: int, seconds: int) -> None:
        journal, index = self._named.journal(key), self._named.index(JOURNAL, key[0])
        now = wall()
        *_, listed_for = self._session.run(
            [
                ("lpush", journal, entry),
                ("ltrim", journal, 0, keep - 1),
                ("expire", journal, seconds),
                ("zadd", index, {journal: now + seconds * SECOND}),
                ("zremrangebyscore", index, "-inf", now - _DAY * SECOND),
                ("ttl", index),
            ]
        )
        if listed_for < seconds:  # about once a day
            self._session.run([("expire", index, seconds + _DAY)])

    def _entries(self, key: Key) -> list[str]:
        return [_text(entry) for entry in self._session.run([("lrange", self._named.journal(key), 0, -1)])[0]]

    def _indexes(self, policy: Policy | None) -> list[str]:
        return self._named.indexes(JOURNAL if policy is None else policy.name)

    def _forgetting(self, policy: Policy | None, index: str, listed: Sequence[str]) -> list[Command]:
        """What forgets records of a policy, or journals, along with their places in the index."""
        keys = listed if policy is None else [key for first in listed for key in self._named.beside(policy, first)]
        return [("delete", *keys), ("zrem", index, *listed)] if listed else []

    def _renew(self) -> None:
        """Have connections of one's own, also in a forked child."""
        self._loops: LoopSessions | None = None
        if self._servers is None:
            self._session = (ClusterSession if self._clustered else Session)(self._given)
        else:
            self._session = (ClusterSession if self._clustered else Session)(None, self._servers)
            self._loops = LoopSessions(self._servers)

    def info(self) -> dict[str, Any]:
        """What the server says of itself (``INFO``); of a cluster nothing, since each of its servers differs.

        Raises:
            BackendError: it does not answer.
        """
        return {} if self._clustered else dict(self._session.run([("info",)])[0])

    def close(self) -> None:
        """Close the connections of threads. Those of event loops are closed along with their loops."""
        self._session.close()

    def _after_fork(self) -> None:
        _of_parents.append((self._session, self._loops))
        self._renew()


def _is_ordinary(key: Key) -> bool:
    """Whether to remember what it is called: not if it is long, nor if it is what is left of a long one."""
    return type(key[0]) is type(key[1]) is str and len(key[0]) <= MAX_KEY


_NUMBERS = {int}


def _verdicts(calls: Sequence[Call], answer: Any) -> list[Verdict]:
    """The answer, if that is what it is: of what a bad network made of it nobody else would make sense."""
    verdicts = [tuple(verdict) for verdict in answer] if type(answer) is list else []
    if [len(verdict) for verdict in verdicts] != [call.policy.answers for call in calls] or any(
        {*map(type, verdict)} != _NUMBERS for verdict in verdicts
    ):
        raise BackendError(f"Redis: no verdicts on {len(calls)} calls: {answer!r:.200}")
    return verdicts


def _text(member: bytes | str) -> str:
    return member if isinstance(member, str) else member.decode()


_instances = renewed_after_fork(RedisBackend._after_fork)
_of_parents: list[Any] = []
"""What forked children inherited. A thread that they do not have may hold its locks, and who collects it would wait."""
