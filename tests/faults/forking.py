"""A program that uses a breaker and limiters in threads, and then forks children who all use them at once."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

from ratelimit_core import CircuitBreaker, Limiter
from ratelimit_core.backends import Backend, DatabaseBackend, RedisBackend
from ratelimit_core.circuit_breaker.breaker import cache_of
from ratelimit_core.policies import FIXED_WINDOW
from tests.backends.database.forks import session, sessions
from tests.circuit_breaker.members import backend_of

LIMIT = 200
HITS = 10


def locks() -> list[Any]:
    """Every lock that the library has in this process."""
    mine = [each for each in gc.get_objects() if str(type(each).__module__).startswith("ratelimit_core")]
    modules = [module for name, module in sys.modules.items() if name.startswith("ratelimit_core")]
    found = {id(lock): lock for each in [*mine, *modules] if (lock := vars_of(each).get("_lock")) is not None}
    return list(found.values())


def vars_of(each: object) -> dict[str, Any]:
    return getattr(each, "__dict__", {})


def connection(backend: Backend) -> object:
    """What the server calls a connection of this process, of those by which decisions are asked for."""
    if isinstance(backend, DatabaseBackend):
        return session(backend)
    assert isinstance(backend, RedisBackend)
    assert backend._session._connections is not None
    return backend._session._connections.execute("CLIENT", "ID")


def connections(backend: Backend) -> set[object]:
    """All that the server has."""
    if isinstance(backend, DatabaseBackend):
        return sessions(backend.alias)
    assert isinstance(backend, RedisBackend)
    return {int(client["id"]) for client in backend._session.execute([("client_list",)])[0]}


class Used:
    """What the parent had in use when it forked."""

    def __init__(self, url: str, prefix: str, children: int) -> None:
        self.backend = backend_of(url, prefix)
        self.breaker = CircuitBreaker("upstream", backend=self.backend, failure_threshold=children, cache_ttl=0)
        self.busy = CircuitBreaker("busy", backend=self.backend, failure_threshold=1_000_000, cache_ttl=0)
        self.tenants = CircuitBreaker("{tenant}", backend=self.backend, failure_threshold=1)
        self.limiter = Limiter(f"{LIMIT}/h", key="supplier", backend=self.backend)
        self.other = Limiter(f"{LIMIT}/h", key="other", backend=self.backend)

    def child(self, gate: int, answers: int) -> None:
        os.read(gate, 1)  # until the parent opens it to all
        self.breaker.acquire().failure()
        allowed = sum(bool(self.limiter.hit()) for _ in range(HITS))
        mine = connection(self.backend)
        store = cache_of(self.breaker).store
        local = not store.available
        store.backend = RedisBackend("redis://127.0.0.1:1/0")  # by now every lock has to be the child's own
        assert self.other.hit().local
        assert self.tenants.bind(tenant=1).acquire().local
        self.backend.delete(FIXED_WINDOW, [("none", "")])
        os.write(answers, json.dumps([allowed, local, mine]).encode() + b"\n")


def main(url: str, prefix: str, number: str) -> None:
    children = int(number)
    used = Used(url, prefix, children)
    used.breaker.acquire().success()
    assert used.limiter.hit()
    (gate, opener), (answers, answer) = os.pipe(), os.pipe()
    running, held, stop = threading.Semaphore(0), threading.Event(), threading.Event()

    def hammer() -> None:
        while not stop.is_set():
            used.busy.acquire().failure()
            used.other.peek()
            running.release()

    def hold() -> None:
        with ExitStack() as stack:
            for lock in locks():
                stack.enter_context(lock)
            held.set()
            stop.wait()

    def fork() -> int:
        pid = os.fork()
        if not pid:
            signal.alarm(60)  # a deadlock ends here
            os.close(opener)
            try:
                used.child(gate, answer)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(1)
        return pid

    with ThreadPoolExecutor(16) as pool:  # so that connections lie idle when it forks
        list(pool.map(lambda _: used.other.peek(), range(100)))
    threads = [threading.Thread(target=hammer) for _ in range(4)]
    for thread in threads:
        thread.start()
    known = connections(used.backend)
    pids = []
    for _ in range(children // 2):  # in the middle of calls
        running.acquire()
        pids.append(fork())
    threads.append(threading.Thread(target=hold))
    threads[-1].start()
    held.wait()
    pids += [fork() for _ in range(children - len(pids))]  # while another thread holds every lock
    stop.set()
    for thread in threads:
        thread.join()
    os.close(opener)
    codes = {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids}
    os.close(answer)
    with os.fdopen(answers) as lines:
        told = [json.loads(line) for line in lines]
    status = used.breaker.get_status()
    print(
        "forked",
        json.dumps(
            {
                "codes": sorted(codes),
                "allowed": 1 + sum(allowed for allowed, _, _ in told),
                "local": sum(local for _, local, _ in told),
                "connections": len({theirs for _, _, theirs in told} - known),
                "state": status["state"],
                "failures": status["failure_count"],
            }
        ),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
