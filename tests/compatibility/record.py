"""Records what this version stores: ``python -m tests.compatibility.record``.

To be run by the first version whose records are of a new kind, and never to make a test pass.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import redis
from django.db import connections

from ratelimit_core.backends import Backend, Call, DatabaseBackend, RedisBackend
from ratelimit_core.backends.database.sql import LEASES, RECORDS
from ratelimit_core.policies import POLICIES
from ratelimit_core.testing import ManualClock
from tests import databases, servers

RECORDED = Path(__file__).parent / "recorded" / "records.json"
PREFIX = "recorded"
START = 4_000_000_000.0  # a time that a server takes for the future, so that nothing has ended
EVENTS: dict[str, list[tuple[int, ...]]] = {
    # by the policy: what was asked, and what is asked now
    "breaker": [(0, *(0,) * 8), (1, 0, 0, 0, 2, 0, 0, 0, 0), (2, *(0,) * 8)],
    "concurrency": [(0, 1, 4), (1, 1, 4)],
    "counter": [(0, 3, 60_000_000), (1, 1, 0)],
    "fixed_window": [(0, 3), (1, 1)],
    "place": [(1, 7, 0), (4, 7, 50_000), (3, 7, 500_000)],
    "sliding_window": [(0, 3, 2, 0, 0), (1, 1, 4, 0, 0)],
    "sliding_window_counter": [(0, 3), (1, 1)],
    "token_bucket": [(3, 3, 0, 0), (1, 1, 0, 0)],
}
CONFIGS: dict[str, dict[str, int]] = {
    "breaker": {"failure_threshold": 3, "success_threshold": 1, "spare_probes": 0}
    | {"recovery_timeout": 60_000_000, "backoff_permille": 2000, "max_interval": 300_000_000}
    | {"reset_timeout": 300_000_000, "probe_timeout": 60_000_000, "record_ttl": 600_000_000}
    | {"window": 0, "minimum_calls": 10, "failure_permille": 0, "slow_permille": 0}
    | {"slow_start": 0, "shadow": 0, "fingerprint": 7},
    "concurrency": {"limit": 5, "timeout": 60_000_000},
    "counter": {},
    "fixed_window": {"limit": 5, "period": 60_000_000},
    "place": {"keep": 60_000_000},
    "sliding_window": {"limit": 5, "period": 60_000_000, "spacing": 12_000_000},
    "sliding_window_counter": {"limit": 5, "quarter": 15_000_000},
    "token_bucket": {"interval": 12_000_000, "burst": 5, "tolerance": 12_000_000},
}


def calls(name: str) -> list[Call]:
    policy = POLICIES[name]
    values = CONFIGS[name]
    config = tuple(values[each] for each in policy.config)
    return [Call(policy, ("pay:{1}", "q"), event, config, "a ticket") for event in EVENTS[name]]


def asked(store: Backend) -> dict[str, list[int]]:
    """What the last call of each policy comes to."""
    return {name: list(store.apply([calls(name)[-1]])[0]) for name in EVENTS}


def fill(store: Backend) -> None:
    for name in EVENTS:
        for call in calls(name)[:-1]:
            store.apply([call])


def in_redis(client: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key in sorted(client.scan_iter(f"{PREFIX}:*")):
        if client.type(key) == b"string":
            found[key.decode()] = client.get(key).hex()
        else:
            found[key.decode()] = {member.decode(): end for member, end in client.zrange(key, 0, -1, withscores=True)}
    return found


def in_database(alias: str) -> dict[str, list[list[Any]]]:
    with connections[alias].cursor() as cursor:
        found = {}
        for table in (RECORDS, LEASES):
            columns = "record, owner, part, ends" if table == LEASES else "*"
            cursor.execute(f"SELECT {columns} FROM {table} ORDER BY 1, 2")
            found[table] = [list(row) for row in cursor.fetchall()]
        return found


def main() -> None:
    clock = ManualClock(START)
    with servers.valkey() as url, redis.Redis.from_url(url) as client, tempfile.TemporaryDirectory() as directory:
        store: Backend = RedisBackend(url, key_prefix=PREFIX, clock=clock)
        fill(store)
        recorded: dict[str, Any] = {"answers": asked(store), "redis": in_redis(client)}
        store.close()
        with databases.sqlite(Path(directory)) as alias:
            store = DatabaseBackend(alias, key_prefix=PREFIX, clock=clock)
            fill(store)
            assert asked(store) == recorded["answers"]
            recorded["database"] = in_database(alias)
            store.close()
    RECORDED.write_text(json.dumps(recorded, indent=1) + "\n")


if __name__ == "__main__":
    databases.setup()
    main()
