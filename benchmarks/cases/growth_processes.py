"""The cost of a check with 1 to 16 processes that ask one server at the same time."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection

from example_worker.processes import die_with_parent

from .. import report
from ..breakers import SHARED, Service
from ..limiters import evalsha, limits, ours
from ..measure import MICRO, Call, Pace
from ..stage import Server, valkey

SPAWN = multiprocessing.get_context("spawn")
Servers = dict[str, Server]
LIMITERS: dict[str, Callable[[Server], Call]] = {
    "redis-py EVALSHA": evalsha,
    "limits, fixed window": lambda server: limits("FixedWindowRateLimiter", server.url),
    "resilient-tasks, token bucket": lambda server: ours("token_bucket", server.url),
}
BREAKERS: dict[str, Callable[[Server], Call]] = {
    name: lambda server, it=each: it.guard(Service().call, server)  # type: ignore[misc] # bound here
    for name, each in SHARED.items()
}


def run(pace: Pace) -> report.Report:
    places = [1, 4] if pace.quick else [1, 2, 4, 8, 16]
    seconds = 0.3 if pace.quick else 3.0
    cpu: dict[str, list[float | None]] = {name: [] for name in LIMITERS}
    asked: dict[str, list[float | None]] = {name: [] for name in BREAKERS}
    with ExitStack() as stack:
        # Each library has its own server, because some libraries send commands in the background.
        servers = {name: stack.enter_context(valkey()) for name in (*LIMITERS, *BREAKERS)}
        members = stack.enter_context(_members(max(places), servers))
        for number in places:
            for name in LIMITERS:
                spent, times, _ = _together(members[:number], name, seconds, servers)
                cpu[name].append(spent / times * MICRO)
            for name in BREAKERS:
                *_, commands = _together(members[:number], name, 2 * seconds, servers)
                asked[name].append(commands / (2 * seconds))
    along = "processes"
    return report.Report(
        curves={
            "Processes that check a limit on Redis": report.Curves(along, "µs of CPU a check", places, cpu),
            "Processes that call through a closed breaker": report.Curves(along, "commands a second", places, asked),
        }
    )


@contextmanager
def _members(number: int, servers: Servers) -> Iterator[list[Connection]]:
    """Start ``number`` processes, and yield a pipe to each."""
    ports = {name: server.port for name, server in servers.items()}
    pipes = [SPAWN.Pipe() for _ in range(number)]
    processes = [SPAWN.Process(target=_member, args=(ports, theirs), daemon=True) for _, theirs in pipes]
    for process in processes:
        process.start()
    try:
        yield [mine for mine, _ in pipes]
    finally:
        for process in processes:
            process.kill()
            process.join()


def _together(members: list[Connection], name: str, seconds: float, servers: Servers) -> tuple[float, int, int]:
    """Run all members at once. Return their CPU seconds, their calls, and the commands that the server got."""
    for member in members:
        member.send(name)
    for member in members:
        member.recv()
    with servers[name].watched() as seen:
        for member in members:
            member.send(seconds)
        found = [member.recv() for member in members]
    return sum(cpu for cpu, _ in found), sum(times for _, times in found), seen[0].commands


def _member(ports: dict[str, int], pipe: Connection) -> None:
    die_with_parent()
    calls = {name: make(Server(ports[name])) for name, make in (LIMITERS | BREAKERS).items()}
    while True:
        call = calls[pipe.recv()]
        call()
        pipe.send("ready")
        until, times, cpu = time.monotonic() + pipe.recv(), 0, time.process_time()
        while time.monotonic() < until:
            for _ in range(10):
                call()
            times += 10
        pipe.send((time.process_time() - cpu, times))
