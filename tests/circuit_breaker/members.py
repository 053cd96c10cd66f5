"""What the other processes of the tests do."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from typing import Any

from ratelimit_core import CircuitBreaker, CircuitBreakerError, Limiter, events
from ratelimit_core._util.clock import wall
from ratelimit_core._util.ids import new_id
from ratelimit_core.backends import Backend, DatabaseBackend, MemoryBackend, RedisBackend
from ratelimit_core.circuit_breaker.breaker import cache_of
from ratelimit_core.circuit_breaker.permit import Permit
from tests import databases


def backend_of(url: str, prefix: str) -> Backend:
    """A store that is patient, on a busy machine too; a database by its alias, with the environment of its parent."""
    if "://" in url:
        return RedisBackend(url, key_prefix=prefix, socket_timeout=30)
    databases.setup()
    return DatabaseBackend(url, key_prefix=prefix, timeout=20)


def race(url: str, prefix: str, names: list[str], options: dict[str, Any], start: Barrier, answers: Connection) -> None:
    """Ask each breaker once, at the same moment as the others, and hold on to what was given."""
    backend = backend_of(url, prefix)
    breakers = [CircuitBreaker(name, backend=backend, **options) for name in names]
    permits = []
    for breaker in breakers:
        start.wait(60)
        with suppress(CircuitBreakerError):
            permits.append(breaker.acquire())
    answers.send([permit.lease_id for permit in permits])


def member(url: str, prefix: str, options: dict[str, Any], commands: Connection) -> None:
    """Do what is told, and answer with what came of it, and the events.

    ``ask`` for a permit, and settle it by ``success`` or ``failure``; ``hit`` a limit; or tell the time (``wall``).
    """
    seen: list[events.Event] = []
    events.subscribe(seen.append)
    backend = backend_of(url, prefix)
    breaker = CircuitBreaker("upstream", backend=backend, **options)
    limiter = Limiter("1000/h", key="leased", backend=backend, local_quota=100)
    permit: Permit | None = None
    answer: object
    with suppress(EOFError):
        while True:
            match commands.recv():
                case "ask":
                    try:
                        permit = breaker.acquire()
                    except CircuitBreakerError:
                        permit = None
                    answer = permit is not None
                case "hit":
                    answer = bool(limiter.hit())
                case "wall":
                    answer = wall()
                case outcome if permit is not None:
                    answer = getattr(permit, outcome)()
            commands.send((answer, seen[:]))
            seen.clear()


# A program that forks while its threads are in the middle of calls


def child(busy: CircuitBreaker, quiet: CircuitBreaker, opened: CircuitBreaker, parents_id: str) -> None:
    assert new_id()[:12] != parents_id[:12], "its lease ids are its own"
    seen: list[events.Event] = []
    events.subscribe(seen.append)
    assert cache_of(quiet).pending_successes == 0, "what is pending is the parent's to report"
    assert quiet.get_status()["stats"]["successes"] == 0
    assert not opened.is_allowed()
    for number in range(20):
        permit = busy.acquire()
        permit.failure() if number % 2 else permit.success()
    assert busy.state == "closed"
    assert not seen, "its connections are its own"
    store = cache_of(opened).store
    if store.shared:
        store.backend = RedisBackend("redis://127.0.0.1:1/0")
        assert opened.state == "open", "a known opening holds in the child too"
        assert not opened.is_allowed()


def forks(url: str, prefix: str, children: int = 24) -> None:
    backend: Backend = MemoryBackend() if url == "memory" else backend_of(url, prefix)
    busy = CircuitBreaker("busy", backend=backend, cache_ttl=0, failure_threshold=1_000_000)
    quiet = CircuitBreaker("quiet", backend=backend, cache_ttl=3600)
    opened = CircuitBreaker("opened", backend=backend, failure_threshold=1, recovery_timeout=3600)
    opened.acquire().failure()
    for _ in range(5):
        quiet.acquire().success()
    running, stop = threading.Semaphore(0), threading.Event()

    def hammer() -> None:
        while not stop.is_set():
            busy.acquire().failure()
            running.release()

    def hold() -> None:
        with cache_of(opened).store._lock:
            running.release(8)
            stop.wait()

    threads = [threading.Thread(target=hold), *(threading.Thread(target=hammer) for _ in range(8))]
    for thread in threads:
        thread.start()
    pids = []
    for _ in range(children):
        for _ in range(8):
            running.acquire()
        lease_id = new_id()
        pid = os.fork()
        if not pid:
            signal.alarm(15)  # a deadlock ends here
            try:
                child(busy, quiet, opened, lease_id)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(1)
        pids.append(pid)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    stop.set()
    for thread in threads:
        thread.join()
    assert cache_of(quiet).pending_successes == 5
    print("children ended with", sorted(set(codes)))


if __name__ == "__main__":
    forks(url=sys.argv[1], prefix=sys.argv[2])
