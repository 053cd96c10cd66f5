"""One of several processes that want the one probe of each of some open breakers; tells how many it got."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor

from ratelimit_core._util.clock import SECOND
from ratelimit_core._util.ids import new_id
from ratelimit_core.backends import Call
from ratelimit_core.backends.database import DatabaseBackend
from ratelimit_core.policies import ALLOWED, BREAKER
from ratelimit_core.policies.circuit_breaker import ASK, REPORT
from tests import databases
from tests.conformance.scenarios import plain_config

ROUNDS = 10
THREADS = 4

_CONFIG = plain_config(BREAKER, 60 * SECOND) | {"failure_threshold": 1, "recovery_timeout": 1, "max_interval": 1}


def _call(number: int, **event: int) -> Call:
    values = dict.fromkeys(BREAKER.event, 0) | event
    return Call(BREAKER, (f"breaker {number}", ""), tuple(values.values()), tuple(_CONFIG.values()), new_id())


def opening(number: int) -> Call:
    """A failure that opens breaker ``number``, for 1 µs."""
    return _call(number, op=REPORT, failures=1)


def main(alias: str, prefix: str) -> None:
    databases.setup()
    backend = DatabaseBackend(alias, timeout=20, key_prefix=prefix)

    def ask(number: int) -> int:
        return backend.apply([_call(number, op=ASK)])[0][ALLOWED]

    with ThreadPoolExecutor(THREADS) as pool:
        print("ready", flush=True)
        sys.stdin.readline()
        got = [sum(pool.map(ask, [number] * THREADS)) for number in range(ROUNDS)]
    print("got", json.dumps(got), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
