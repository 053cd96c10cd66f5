"""Connections of our own, without redis-py's command machinery: how many, to whom, and what a signal does to them."""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import redis
from celery.exceptions import SoftTimeLimitExceeded

from ratelimit_core import CircuitBreaker, Limiter
from ratelimit_core.backends import RedisBackend
from ratelimit_core.backends.redis import connections, round_trips
from ratelimit_core.errors import BackendError
from ratelimit_core.policies import FIXED_WINDOW
from ratelimit_core.protocol.names import Hashed, escape
from resilient_tasks.execution import run  # noqa: F401 - it knows what soft time limits raise
from tests.backends.test_interrupted import interrupted_at
from tests.conformance.test_stores import ask
from tests.servers import PATIENT, eventually, valkey

from .topology import watched

CALLS = [ask(FIXED_WINDOW)]


def test_one_connection_is_enough_for_all_there_is(valkey_url: str, prefix: str) -> None:
    backend = RedisBackend(f"{valkey_url}?max_connections=1", key_prefix=prefix)
    breaker = CircuitBreaker(f"{prefix}-one", backend=backend, failure_threshold=1)
    limiter = Limiter("5/h", key="one", backend=backend)
    assert breaker.call(len, "abc") == 3
    assert limiter.hit()
    breaker.force_open("kim", "they move")
    breaker.reset("kim")
    limiter.reset()
    assert [entry["event"] for entry in breaker.history()] == ["reset", "forced_open"]
    backend.clear()
    backend.close()


def test_more_threads_than_connections_is_an_error_and_no_more_connections(prefix: str) -> None:
    together = threading.Barrier(3)
    with valkey() as url, redis.Redis.from_url(url) as client, ThreadPoolExecutor(3) as threads:
        backend = RedisBackend(f"{url}?max_connections=2", key_prefix=prefix, socket_timeout=20)

        def attempt(_: int) -> str:
            together.wait()
            try:
                backend.apply_unguarded(CALLS)
            except BackendError as error:
                return str(error)
            return "well"

        client.execute_command("CLIENT", "PAUSE", 500, "ALL")
        answers = sorted(threads.map(attempt, range(3)))
        assert answers == ["Redis: ConnectionError: Too many connections", "well", "well"]
        backend.close()


def test_after_a_failover_nobody_waits_for_the_old_master(prefix: str) -> None:
    together = threading.Barrier(4)
    with watched(down_after=1000) as setup, ThreadPoolExecutor(4) as threads:
        backend = RedisBackend(setup.url, key_prefix=prefix)

        def attempt(_: int) -> None:
            together.wait()
            backend.apply_unguarded(CALLS)

        def well() -> bool:
            try:
                backend.apply_unguarded(CALLS)
            except BackendError:
                return False
            return True

        setup.master.client.execute_command("CLIENT", "PAUSE", 120)  # so that each has a connection of its own
        list(threads.map(attempt, range(4)))
        setup.master.hang()
        eventually(lambda: setup.replica.client.role()[0] == b"master")
        eventually(well)
        list(threads.map(attempt, range(4)))
        backend.close()


@pytest.fixture
def signalled() -> Iterator[None]:
    def limit(*_: Any) -> None:
        raise SoftTimeLimitExceeded

    before = signal.signal(signal.SIGUSR1, limit)
    yield
    signal.signal(signal.SIGUSR1, before)


def test_a_soft_time_limit_says_nothing_about_the_store(signalled: None) -> None:
    with valkey() as url, redis.Redis.from_url(url) as client:
        backend = RedisBackend(url, socket_timeout=20)
        limiter = Limiter("5/h", key="k", backend=backend)
        assert limiter.hit()
        client.execute_command("CLIENT", "PAUSE", 500, "ALL")
        timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1))
        timer.start()
        with pytest.raises(SoftTimeLimitExceeded):
            limiter.hit()
        timer.join()
        assert limiter.store.available
        assert backend.get_backend_health_status()["healthy"]
        assert limiter.hit().remaining in (2, 3)  # and the answer that came too late is nobody's
        backend.close()


@pytest.mark.parametrize("each", [False, True], ids=["apply", "apply_each"])
def test_an_interruption_anywhere_costs_no_connection_and_nobody_gets_anothers_answer(
    valkey_url: str, prefix: str, each: bool
) -> None:
    step, backend = 1, RedisBackend(f"{valkey_url}?max_connections=1", key_prefix=prefix)
    backend.incr("warm", 60)
    asked = partial(backend.apply_each_unguarded, [CALLS] * 5) if each else partial(backend.apply_unguarded, CALLS)
    while interrupted_at(step, asked, round_trips, connections):
        gc.collect()  # Python's own collector would come by in time
        assert backend.incr("own", 60) == step
        if step % 5 == 0:
            backend.close()  # so that it has to connect, too
        step += 1
    assert step > 15
    backend.clear()
    backend.close()


def test_a_name_that_looks_like_what_is_left_of_another_is_its_own(valkey_url: str, prefix: str) -> None:
    long = "x" * 5000
    left = Hashed(escape(long))
    backend = RedisBackend(valkey_url, key_prefix=prefix, **PATIENT)
    limiter = Limiter("5/h", key="k", algorithm="fixed_window", backend=backend)
    assert limiter.hit(key=long).remaining == 4
    assert limiter.hit(key=left).remaining == 3
    assert limiter.hit(key=str(left)).remaining == 4
    assert limiter.hit(key=left).remaining == 2
    backend.clear()
    backend.close()
