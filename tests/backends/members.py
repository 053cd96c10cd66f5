"""What the other processes of the tests do."""

from __future__ import annotations

from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier

from ratelimit_core.backends import RedisBackend


def count(url: str, prefix: str, start: Barrier, answers: Connection) -> None:
    """Count 200 hits of one key, and send what each came to."""
    backend = RedisBackend(url, key_prefix=prefix, socket_timeout=30)
    start.wait(30)
    answers.send([backend.incr("key", 600) for _ in range(200)])
