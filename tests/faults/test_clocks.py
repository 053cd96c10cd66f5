"""Processes whose clocks are hours apart, or jump: shared stores decide by their own, and processes measure spans."""

from __future__ import annotations

import importlib.util
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis

from ratelimit_core._util.clock import SECOND, wall
from tests import databases
from tests.circuit_breaker.test_races import Member
from tests.limiter import hammer
from tests.limiter.test_admission import DOCUMENTED, busiest, most_at_a_time, told
from tests.servers import Process, eventually, missing

from .table import Row

HOUR = 3600
SKEWED = ["-1h", "+1h", "+0", "+1d"]
RECOVERY = 1.5
OPTIONS: dict[str, Any] = {"failure_threshold": 4, "recovery_timeout": RECOVERY, "cache_ttl": 0}


@pytest.fixture(scope="session")
def faketime() -> dict[str, str]:
    """The environment in which a process takes its wall clock, and no other, from ``FAKETIME``."""
    package = importlib.util.find_spec("libfaketime")
    if package is None or package.origin is None:
        missing("libfaketime is not installed")
    library = Path(package.origin).parent / "vendor/libfaketime/src/libfaketime.so.1"
    environ = {"LD_PRELOAD": str(library), "DONT_FAKE_MONOTONIC": "1", "FAKETIME_NO_CACHE": "1"}
    with Process.python(
        "-c", "import time; print('wall', time.time_ns())", environ=environ | {"FAKETIME": "+1h"}
    ) as it:
        said = int(it.wait_for("wall").split()[1])
    if abs(said // 1000 - wall() - HOUR * SECOND) > 60 * SECOND:
        missing("libfaketime does not work on this machine")
    return environ


@pytest.fixture(params=["valkey", "postgresql", pytest.param("mariadb", marks=pytest.mark.whole)])
def store(request: pytest.FixtureRequest) -> tuple[str, str, Mapping[str, str]]:
    """Each kind of server: what it is called, where it is, and the environment of processes that ask it."""
    if request.param == "valkey":
        return request.param, request.getfixturevalue("valkey_url"), {}
    alias = request.getfixturevalue(request.param)
    return request.param, alias, databases.child_environ(alias)


@pytest.fixture
def start(faketime: Mapping[str, str]) -> Iterator[Callable[..., Member]]:
    """Start a member of the fleet with a clock of its own."""
    prefix = uuid.uuid4().hex
    with ExitStack() as stack:

        def start(url: str, options: dict[str, Any], **environ: str) -> Member:
            with pytest.MonkeyPatch.context() as patch:
                for name, value in {**faketime, **environ}.items():
                    patch.setenv(name, value)
                member = Member(url, prefix, options)
            stack.callback(member.close)
            return member

        yield start


def test_limits_hold_whatever_time_the_processes_have(
    store: tuple[str, str, Mapping[str, str]], faketime: Mapping[str, str], saw: Callable[[Row], None]
) -> None:
    kind, where, environ = store
    module = ["tests.limiter.hammer", where, kind] if kind == "valkey" else ["tests.backends.database.hammer", where]
    with ExitStack() as stack:
        started = [
            stack.enter_context(
                Process.python("-m", *module, environ={**faketime, **environ, "FAKETIME": skew, "HAMMER_SECONDS": "2"})
            )
            for skew in SKEWED
        ]
        spans = told(started)
    most = {algorithm: busiest(spans[algorithm]) for algorithm in DOCUMENTED}
    over = sum(max(0, most[algorithm] - documented) for algorithm, documented in DOCUMENTED.items())
    skews = f"libfaketime: {', '.join(SKEWED)}"
    saw(Row("The fleet", f"Clocks of processes are hours apart; limits on {kind}", skews, over_admitted=over))
    assert over == 0, most
    assert 1 < most_at_a_time(spans["places"]) <= hammer.PLACES


def test_a_breaker_opens_and_is_probed_by_the_stores_clock(
    store: tuple[str, str, Mapping[str, str]], start: Callable[..., Member], saw: Callable[[Row], None]
) -> None:
    kind, where, environ = store
    members = [start(where, OPTIONS, **environ, FAKETIME=skew) for skew in SKEWED]
    apart = max(member("wall") for member in members) - min(member("wall") for member in members)
    assert apart > 24 * HOUR * SECOND
    assert all(member("ask") for member in members)
    began = time.monotonic()
    for member in members:
        member("failure")
    probers: list[Member] = []

    def probed() -> bool:
        probers.extend(member for member in members if member("ask"))
        return bool(probers)

    eventually(probed)
    took = time.monotonic() - began
    assert not any(member("ask") for member in members if member is not probers[0])
    assert len(probers) == 1
    assert took >= RECOVERY
    saw(
        Row(
            "The fleet",
            f"Clocks of processes are hours apart; a breaker on {kind} that opens for {RECOVERY} s",
            f"libfaketime: {', '.join(SKEWED)}",
            upstream_calls=f"{len(members) + len(probers)} of {len(members) + 1}",
            recovery=took,
        )
    )
    probers[0]("success")
    eventually(lambda: all(member("ask") for member in members))


def test_a_clock_that_jumps_changes_nothing_that_a_process_knows(
    valkey_url: str, start: Callable[..., Member], tmp_path: Path
) -> None:
    now = tmp_path / "now"
    now.write_text("+0")
    options = {**OPTIONS, "cache_ttl": 60, "failure_threshold": 1}
    member = start(valkey_url, options, FAKETIME_TIMESTAMP_FILE=str(now))
    client = redis.Redis.from_url(valkey_url)

    def questions() -> int:
        return sum(stats["calls"] for name, stats in client.info("commandstats").items() if "eval" in name)

    def jump(by: str, seconds: int) -> None:
        now.write_text(by)
        assert abs(member("wall") - wall() - seconds * SECOND) < 60 * SECOND

    assert member("ask")
    assert member("hit")
    asked = questions()
    for by, seconds in (("+1h", HOUR), ("-1h", -HOUR)):
        jump(by, seconds)
        assert member("ask"), "on the verdict that it has"
        assert member("hit"), "of the block that it has leased"
    assert questions() == asked
    began = time.monotonic()
    member("failure")
    jump("+1h", HOUR)
    assert not member("ask"), "what is open stays open"
    jump("-1h", -HOUR)
    eventually(lambda: member("ask"))
    assert time.monotonic() - began >= RECOVERY
    client.close()
