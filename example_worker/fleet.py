"""The processes of the demo: a Valkey, the payment service, Celery workers and the site."""

import gc
import os
import secrets
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import redis
import requests

from example_worker.celery_app import app, connect
from example_worker.payments import Upstream
from example_worker.prepare import site_environ
from example_worker.processes import Processes, free_port

WORKERS = 2
CONCURRENCY = 4  # pool processes of each worker
STARTUP = 30.0  # seconds within which each process has to answer


@dataclass(frozen=True, slots=True)
class Fleet:
    """A running fleet: the payment service, the URL of the site, and the store with its key prefix."""

    upstream: Upstream
    site: str
    store: "redis.Redis"
    prefix: str

    def waiting(self) -> int:
        """Return the number of messages in the queue, and of those that workers run or hold until they are due."""
        queued = self.store.llen(f"{self.prefix}celery")
        held = self.store.hlen(f"{self.prefix}unacked")
        return int(queued) + int(held)


@contextmanager
def running_fleet(log: str) -> Iterator[Fleet]:
    """Start all processes on free ports. If ``REDIS_URL`` is set, use that server, with a key prefix for this run."""
    with (
        tempfile.TemporaryDirectory(prefix="example-worker-") as directory,
        _running(log, site_environ(directory)) as fleet,
    ):
        yield fleet


@contextmanager
def _running(log: str, site: dict[str, str]) -> Iterator[Fleet]:
    valkey_port, upstream_port, web_port = free_port(), free_port(), free_port()
    embedded = "REDIS_URL" not in os.environ
    environ = site | {
        "REDIS_URL": f"redis://127.0.0.1:{valkey_port}/0" if embedded else os.environ["REDIS_URL"],
        "UPSTREAM_URL": f"http://127.0.0.1:{upstream_port}",
        "EXAMPLE_PREFIX": f"resilient-demo-{secrets.token_hex(4)}.",
    }
    connect(environ)
    fleet = Fleet(
        upstream=Upstream(environ["UPSTREAM_URL"]),
        site=f"http://127.0.0.1:{web_port}",
        store=redis.Redis.from_url(environ["REDIS_URL"]),
        prefix=environ["EXAMPLE_PREFIX"],
    )
    with Processes(environ, log) as servers:
        if embedded:
            servers.start("example_worker.valkey", "--port", str(valkey_port), when_orphaned=signal.SIGTERM)
        servers.start("example_worker.upstream", "--port", str(upstream_port))
        servers.run("example_worker.prepare")
        wait_until("the store", fleet.store.ping, redis.ConnectionError)
        wait_until("the payment service", fleet.upstream.stats, requests.ConnectionError)
        try:
            with Processes(environ, log) as workers:
                for number in range(WORKERS):
                    workers.start(*worker(f"demo{number}@%h"))
                workers.start(*web(web_port))
                wait_until("the workers", lambda: len(app.control.ping(timeout=0.5) or []) == WORKERS)
                wait_until("the site", lambda: requests.get(fleet.site, timeout=5).ok, requests.RequestException)
                yield fleet
        finally:
            gc.collect()  # results unsubscribe when they are collected, which needs the store
            for key in fleet.store.scan_iter(match=fleet.prefix + "*", count=1000):
                fleet.store.unlink(key)


def worker(name: str) -> list[str]:
    options = f"-n {name} -c {CONCURRENCY} --without-gossip --without-mingle"
    return ["celery", *f"-A example_worker.celery_app worker {options}".split()]


def web(port: int) -> list[str]:
    options = f"--host 127.0.0.1 --port {port} --workers 2 --lifespan off --no-access-log"
    return ["uvicorn", *f"example_worker.asgi:application {options}".split()]


def wait_until(what: str, answers: Callable[[], object], *not_yet: type[Exception]) -> None:
    """Call ``answers`` until it returns a true value. Errors of the types ``not_yet`` count as false."""
    deadline = time.monotonic() + STARTUP
    while time.monotonic() < deadline:
        try:
            if answers():
                return
        except not_yet:
            pass
        time.sleep(0.05)
    raise SystemExit(f"{what} did not answer within {STARTUP:.0f} s; add --log FILE to see the output of the processes")
