"""Processes of the fleet that are killed, paused, forked and monkey-patched, on real servers."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ratelimit_core import CircuitBreaker
from ratelimit_core.backends import RedisBackend
from ratelimit_core.circuit_breaker.breaker import cache_of
from ratelimit_core.circuit_breaker.operator import read_record
from ratelimit_core.circuit_breaker.permit import Permit
from tests import databases, servers
from tests.circuit_breaker.fleet import ask
from tests.circuit_breaker.test_races import Member, fleet
from tests.faults import forking
from tests.limiter import hammer
from tests.limiter.test_admission import DOCUMENTED, busiest, hammered, most_at_a_time

from .table import Row

PROBE_TIMEOUT = 1.5
OPTIONS: dict[str, Any] = {
    "failure_threshold": 1,
    "recovery_timeout": 0.001,
    "probe_timeout": PROBE_TIMEOUT,
    "cache_ttl": 0,
}


@pytest.fixture
def prefix() -> str:
    return f"faults-{uuid.uuid4().hex}"


@pytest.fixture
def here(valkey_url: str, prefix: str) -> Iterator[CircuitBreaker]:
    """The breaker, as this process has it."""
    backend = RedisBackend(valkey_url, key_prefix=prefix, socket_timeout=30)
    yield CircuitBreaker("upstream", backend=backend, **OPTIONS)
    backend.clear()
    backend.close()


@pytest.fixture
def prober(valkey_url: str, prefix: str, here: CircuitBreaker) -> Iterator[Member]:
    """Another process, which probes."""
    with fleet(1, valkey_url, prefix, **OPTIONS) as [member]:
        assert member("ask")
        member("failure")
        servers.eventually(lambda: member("ask"))
        assert ask(here) is None
        yield member


def probe_of(breaker: CircuitBreaker) -> Permit:
    """Its next probe, once there is room for one."""
    permit: Permit | None = None

    def taken() -> bool:
        nonlocal permit
        permit = ask(breaker)
        return permit is not None

    servers.eventually(taken)
    assert permit is not None
    return permit


@pytest.mark.timed
def test_a_prober_that_is_killed_frees_its_place_in_time(
    prober: Member, here: CircuitBreaker, saw: Callable[[Row], None]
) -> None:
    began = time.monotonic()
    prober.kill()
    assert ask(here) is None
    probe_of(here)
    took = time.monotonic() - began
    saw(Row("The fleet", "A prober is killed", f"SIGKILL; its lease lasts {PROBE_TIMEOUT} s", recovery=took))
    assert took <= PROBE_TIMEOUT + 1


@pytest.mark.parametrize("seconds", [0.1, pytest.param(60, marks=pytest.mark.whole)])
@pytest.mark.timed
def test_who_was_paused_in_its_probe_changes_nothing_on_waking(
    prober: Member, here: CircuitBreaker, seconds: float, saw: Callable[[Row], None]
) -> None:
    """At least for so long, and until the others have gone on without it."""
    began = time.monotonic()
    with prober.paused():
        probe = probe_of(here)
        took = time.monotonic() - began
        probe.success()
        time.sleep(max(0.0, began + seconds - time.monotonic()))
        before = read_record(cache_of(here))
    prober("failure")
    assert read_record(cache_of(here)) == before
    assert here.state == "closed"
    assert prober("ask"), "and goes on with the others"
    lasted = "until the others have closed it" if seconds < 1 else f"for {seconds} s"
    saw(Row("The fleet", "A prober is paused, and its outcome comes late", f"SIGSTOP {lasted}", recovery=took))
    assert took <= PROBE_TIMEOUT + 1


def test_who_was_paused_in_a_call_changes_nothing_on_waking(valkey_url: str, prefix: str, here: CircuitBreaker) -> None:
    with fleet(2, valkey_url, prefix, **OPTIONS) as sleepers:
        assert all(sleeper("ask") for sleeper in sleepers)
        with sleepers[0].paused(), sleepers[1].paused():
            here.acquire().failure()
            probe = probe_of(here)
            before = read_record(cache_of(here))
        sleepers[0]("success")
        sleepers[1]("failure")
        assert read_record(cache_of(here)) == before
        probe.success()
        assert here.state == "closed"


@pytest.mark.parametrize(
    ("store", "children"),
    [("valkey", 64), ("postgresql", 16), pytest.param("mariadb", 16, marks=pytest.mark.whole)],
)
def test_forked_children_decide_exactly_and_share_nothing(
    store: str, children: int, prefix: str, request: pytest.FixtureRequest, saw: Callable[[Row], None]
) -> None:
    url = request.getfixturevalue("valkey_url" if store == "valkey" else store)
    environ = {} if store == "valkey" else databases.child_environ(url)
    with servers.Process.python("-m", forking.__name__, url, prefix, str(children), environ=environ) as program:
        told = json.loads(program.wait_for("forked", timeout=90).partition(" ")[2])
    wanted = min(forking.LIMIT, 1 + children * forking.HITS)
    saw(
        Row(
            "The fleet",
            f"A process that uses {store} forks, its threads in the middle of calls or holding every lock",
            f"fork() of {children} children who all call at once",
            upstream_calls=f"{told['allowed']} of {wanted}",
            over_admitted=told["allowed"] - wanted,
        )
    )
    assert told == {
        "codes": [0],
        "allowed": wanted,
        "local": 0,
        "connections": children,
        "state": "open",
        "failures": children,
    }


@pytest.mark.parametrize("store", ["valkey", "postgresql"])
def test_greenlets_decide_exactly(store: str, request: pytest.FixtureRequest) -> None:
    """4 monkey-patched processes of 8 greenlets each."""
    command = ["-m", "gevent.monkey", "--module"]
    environ = {"HAMMER_SECONDS": "2"}
    if store == "valkey":
        command += ["tests.limiter.hammer", request.getfixturevalue("valkey_url"), store]
    else:
        alias = request.getfixturevalue(store)
        command += ["tests.backends.database.hammer", alias]
        environ |= databases.child_environ(alias)
    spans = hammered(*command, environ=environ)
    most = {algorithm: busiest(spans[algorithm]) for algorithm in DOCUMENTED}
    assert {algorithm: max(seen, DOCUMENTED[algorithm]) for algorithm, seen in most.items()} == DOCUMENTED
    assert 1 < most_at_a_time(spans["places"]) <= hammer.PLACES
