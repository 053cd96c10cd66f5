"""What the demo runs on: a Valkey, the payment service and Celery workers."""

import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import redis
import requests

from example_worker.celery_app import app, connect
from example_worker.processes import Processes, free_port

WORKERS = 2
CONCURRENCY = 4  # of each
STARTUP = 30.0  # seconds within which everything has to answer

Stats = dict[str, Any]


class Upstream:
    """The payment service, as its operator sees it."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._session = requests.Session()

    def stats(self) -> Stats:
        return self._ask("GET", "/stats")

    def reset(self) -> None:
        self._ask("POST", "/reset")

    def switch(self, mode: str) -> None:
        self._ask("POST", "/mode", {"mode": mode})

    def _ask(self, method: str, path: str, body: Stats | None = None) -> Stats:
        reply = self._session.request(method, self._url + path, json=body, timeout=5)
        reply.raise_for_status()
        stats: Stats = reply.json()
        return stats


@dataclass(frozen=True, slots=True)
class Fleet:
    """A running fleet: the service it calls, and the messages it has not finished with."""

    upstream: Upstream
    store: "redis.Redis"
    prefix: str

    def waiting(self) -> int:
        """Messages in the queue, and those that a worker runs or holds until they are due."""
        queued = self.store.llen(f"{self.prefix}celery")
        held = self.store.hlen(f"{self.prefix}unacked")
        return int(queued) + int(held)


@contextmanager
def running_fleet(log: str) -> Iterator[Fleet]:
    """Start everything on free ports; where ``REDIS_URL`` names a server, use that, with keys of its own."""
    valkey_port, upstream_port = free_port(), free_port()
    embedded = "REDIS_URL" not in os.environ
    environ = {
        "REDIS_URL": f"redis://127.0.0.1:{valkey_port}/0" if embedded else os.environ["REDIS_URL"],
        "UPSTREAM_URL": f"http://127.0.0.1:{upstream_port}",
        "EXAMPLE_PREFIX": f"resilient-demo-{secrets.token_hex(4)}.",
    }
    connect(environ)
    fleet = Fleet(
        upstream=Upstream(environ["UPSTREAM_URL"]),
        store=redis.Redis.from_url(environ["REDIS_URL"]),
        prefix=environ["EXAMPLE_PREFIX"],
    )
    with Processes(environ, log) as servers:
        if embedded:
            servers.start("example_worker.valkey", "--port", str(valkey_port), when_orphaned=signal.SIGTERM)
        servers.start("example_worker.upstream", "--port", str(upstream_port))
        wait_until("the store", fleet.store.ping, redis.ConnectionError)
        wait_until("the payment service", fleet.upstream.stats, requests.ConnectionError)
        try:
            with Processes(environ, log) as workers:
                for number in range(WORKERS):
                    workers.start(*worker(f"demo{number}@%h"))
                wait_until("the workers", lambda: len(app.control.ping(timeout=0.5) or []) == WORKERS)
                yield fleet
        finally:
            for key in fleet.store.scan_iter(match=fleet.prefix + "*", count=1000):
                fleet.store.unlink(key)


def worker(name: str) -> list[str]:
    options = f"-n {name} -c {CONCURRENCY} --without-gossip --without-mingle"
    return ["celery", *f"-A example_worker.celery_app worker {options}".split()]


def wait_until(what: str, answers: Callable[[], object], *not_yet: type[Exception]) -> None:
    """Ask until the answer is true; an error of the type ``not_yet`` means no."""
    deadline = time.monotonic() + STARTUP
    while time.monotonic() < deadline:
        try:
            if answers():
                return
        except not_yet:
            pass
        time.sleep(0.05)
    raise SystemExit(f"{what} did not answer within {STARTUP:.0f} s; --log FILE keeps what the processes say")
