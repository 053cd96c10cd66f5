"""Faults of Redis, and of the way to it. The server is a real one of the suite's own."""

from __future__ import annotations

from contextlib import AbstractContextManager, suppress
from typing import Any

import pytest

from ratelimit_core import CircuitBreaker, CircuitBreakerError, Limiter
from ratelimit_core.backends import RedisBackend
from ratelimit_core.store import configured
from ratelimit_core.store.fallback import Store
from ratelimit_core.testing import ManualClock
from tests.backends.redis.topology import HOST, Server, one_server
from tests.circuit_breaker.fleet import broken
from tests.servers import free_port

from .conftest import Saw
from .proxy import Proxy, proxy
from .scenario import RETRY_AFTER, THRESHOLD, Fault, Member, endure, fleet
from .table import Row

pytestmark = pytest.mark.timed


def _start_again(server: Server) -> None:
    server.kill()
    server.start()


def _full(server: Server) -> None:
    server.client.config_set("maxmemory", 1)


def _no_room(server: Server) -> None:
    server.client.config_set("maxclients", 1)
    server.client.client_kill_filter(_type="normal", skipme=True)


FULL: Fault[Server] = Fault(
    "Redis out of memory", "maxmemory 1, noeviction", _full, lambda server: server.client.config_set("maxmemory", 0)
)
READ_ONLY: Fault[Server] = Fault(
    "Redis read-only",
    "REPLICAOF a master that is gone",
    lambda server: server.client.replicaof(HOST, free_port()),
    lambda server: server.client.replicaof("NO", "ONE"),
)
SERVER = [
    Fault("Redis refused", "SIGKILL", Server.kill, Server.start, peers="pybreaker never trips"),
    Fault(
        "Redis hung",
        "SIGSTOP",
        Server.hang,
        Server.end_hang,
        peers="pybreaker 118 s; django-smart-ratelimit 15 to 30 s a request",
    ),
    FULL,
    READ_ONLY,
    Fault(
        "Redis out of connections",
        "maxclients 1, and CLIENT KILL of all",
        _no_room,
        lambda server: server.client.config_set("maxclients", 1000),
    ),
    Fault("Redis flushed", "FLUSHALL", lambda server: server.client.flushall(), outage=False),
    Fault("Redis restarted", "SIGKILL, and a start without data or scripts", _start_again, outage=False),
    Fault("Redis without its scripts", "SCRIPT FLUSH", lambda server: server.client.script_flush(), outage=False),
    Fault(
        "Redis closed the connections",
        "CLIENT KILL of all",
        lambda server: server.client.client_kill_filter(_type="normal", skipme=True),
        outage=False,
    ),
]


@pytest.mark.parametrize("fault", SERVER, ids=str)
def test_the_server(fault: Fault[Server], saw: Saw) -> None:
    with one_server() as server, fleet(lambda: RedisBackend(f"redis://{server.address}/0")) as members:
        saw(endure(fault, server, members))


@pytest.mark.parametrize("fault", [FULL, READ_ONLY], ids=str)
def test_a_store_that_can_only_be_read_is_not_back(fault: Fault[Server], saw: Saw, clock: ManualClock) -> None:
    """Whoever only looks finds it well, and whoever writes finds it away: over and over."""
    rounds, limit = 4, 3
    with one_server() as server:
        backend = RedisBackend(f"redis://{server.address}/0")
        configured._stores[backend] = Store(backend, retry_after=RETRY_AFTER, clock=clock)
        asks: Any = {"backend": backend, "clock": clock}
        breaker = CircuitBreaker("upstream", failure_threshold=THRESHOLD, **asks)
        limiter = Limiter(f"{limit}/h", key="k", algorithm="fixed_window", **asks)
        assert breaker.call(limiter.peek)
        fault.inject(server)
        called = admitted = 0
        for _ in range(rounds):
            assert not limiter.peek().local
            for _ in range(2 * THRESHOLD):
                with suppress(CircuitBreakerError, ConnectionError):
                    breaker.call(broken)
                admitted += limiter.hit().allowed
            called = breaker.get_status()["stats"]["failures"]
            clock.advance(RETRY_AFTER)
        assert called == THRESHOLD
        assert admitted == limit
        backend.close()
    saw(
        Row(
            "The store",
            f"{fault.name}, and found well by whoever only reads",
            f"{fault.injected}, {rounds} times back",
            upstream_calls=f"{called} of {THRESHOLD}",
            over_admitted=admitted - limit,
        )
    )


def through(between: Proxy) -> AbstractContextManager[list[Member]]:
    return fleet(lambda: RedisBackend(f"redis://{HOST}:{between.port}/0"))


NO_VERDICTS = {
    "nothing": b"*0\r\n",
    "nil": b"$-1\r\n",
    "text": b"+OK\r\n",
    "a number": b":1\r\n",
    "numbers": b"*1\r\n:1\r\n",
    "too few numbers": b"*1\r\n*1\r\n:1\r\n",
    "one too many": b"*2\r\n*0\r\n*0\r\n",
    "texts": b"*1\r\n*7\r\n" + 7 * b"$1\r\n1\r\n",
    "an error of bad letters": b"-\xff\xfe\r\n",
}


@pytest.mark.parametrize("reply", NO_VERDICTS.values(), ids=NO_VERDICTS)
def test_a_reply_that_is_well_formed_but_no_verdict_is_no_answer(reply: bytes) -> None:
    with one_server() as server, proxy(server.port) as between, through(between) as members:
        for member in members:
            between.heal()
            member.is_well()
            between.reply = lambda _: reply
            assert member.hit(member.limiters["local"]).local
            assert not member.refuses(member.breakers["local"])
            member.do_all_else()


def _slow(between: Proxy) -> None:
    between.delay = 0.2


def _cutting(between: Proxy) -> None:
    between.cut = True


def _garbled(between: Proxy) -> None:
    between.reply = lambda data: bytes(byte ^ 0x55 for byte in data)


NETWORK = [
    Fault("Redis slow", "each reply 200 ms later", _slow, Proxy.heal, outage=False, first=1.0),
    Fault("Redis black-holed", "no packet arrives, nor any SYN", Proxy.black_hole, Proxy.heal),
    Fault("Redis cut in the middle of a reply", "half of each reply, and then FIN", _cutting, Proxy.heal),
    Fault("Redis corrupted", "each byte of a reply is another", _garbled, Proxy.heal),
]


@pytest.mark.parametrize("fault", NETWORK, ids=str)
def test_the_network(fault: Fault[Proxy], saw: Saw) -> None:
    with one_server() as server, proxy(server.port) as between, through(between) as members:
        saw(endure(fault, between, members))
