"""Promises in bad moments: one probe in the fleet, no probe lost with its process, no wait for a hung store."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from .. import members, report
from ..breakers import OURS, SHARED, Breaker, Service, outcome
from ..hung import HANGING, OUR_BREAKER, OUR_LIMITER
from ..measure import Call, Pace
from ..stage import Server, valkey

RACERS, ROUNDS = 8, 100
PROBE_TIMEOUT = 2.0
SPAWN = multiprocessing.get_context("spawn")


def run(pace: Pace) -> report.Report:
    peers = [each for each in SHARED.values() if each is not OURS]
    patience = 3.5 if pace.quick else 30.0
    at_once = len(SHARED) if pace.quick else 1  # the cases mostly wait
    with valkey() as server, ThreadPoolExecutor(at_once) as turns:
        alone = dict(zip(SHARED, turns.map(lambda each: _race(each, server), SHARED.values()), strict=True))
        freed = dict(zip(SHARED, turns.map(lambda each: _killed(each, server, patience), SHARED.values()), strict=True))
    rows = [
        report.Row(
            f"{RACERS} processes race for one probe: rounds of {ROUNDS} with exactly one",
            "",
            ours=alone[OURS.name],
            target=ROUNDS,
            compared=False,
            better="equal",
            peers=[report.Best(each.name, alone[each.name]) for each in peers],
        ),
        report.Row(
            f"prober killed: until the next probe (probe_timeout={PROBE_TIMEOUT:g})",
            "s",
            ours=freed[OURS.name],
            target=PROBE_TIMEOUT + 1,
            compared=False,
            peers=[_within(each.name, freed[each.name], patience) for each in peers],
        ),
        *_hung(5.5 if pace.quick else 150.0),
    ]
    return report.Report(rows)


def _within(name: str, seconds: float | None, patience: float) -> report.Best:
    return report.Best(f"{name}: more than", patience) if seconds is None else report.Best(name, seconds)


def _trip(breaker: Breaker, server: Server, **wanted: Any) -> tuple[Service, Call]:
    """Open a breaker by failures. Return the guarded service, and the call through the breaker."""
    service = Service()
    guarded = breaker.guard(service.call, server, **wanted)
    service.down = True
    for _ in range(5):
        outcome(guarded)
    return service, guarded


def _race(breaker: Breaker, server: Server) -> int:
    """Return the number of rounds in which exactly one process got through."""
    names, recovery = [f"race-{number}" for number in range(ROUNDS)], 4.0
    asked = SPAWN.Barrier(RACERS)
    pipes = [SPAWN.Pipe() for _ in range(RACERS)]
    racers = [
        SPAWN.Process(target=members.race, args=(breaker.name, server.port, names, recovery, asked, theirs))
        for _, theirs in pipes
    ]
    for racer in racers:
        racer.start()
    for pipe, theirs in pipes:
        theirs.close()  # so that a racer that fails is not waited for
        pipe.recv()
    first = time.time()
    for name in names:
        _trip(breaker, server, name=name, recovery=recovery, socket_timeout=members.PATIENCE)
    for pipe, _ in pipes:
        pipe.send((first, time.time()))
    through = Counter(name for pipe, _ in pipes for name in pipe.recv())
    for racer in racers:
        racer.join()
    return sum(number == 1 for number in through.values())


def _killed(breaker: Breaker, server: Server, patience: float) -> float | None:
    """Return the seconds from the start of a killed probe to the next probe. None: more than ``patience`` seconds."""
    wanted = {"name": "killed", "recovery": 3.0, "probe_timeout": PROBE_TIMEOUT}
    pipe, theirs = SPAWN.Pipe()
    prober = SPAWN.Process(target=members.probe, args=(breaker.name, server.port, wanted, theirs))
    prober.start()
    pipe.recv()
    service, here = _trip(breaker, server, **wanted)
    service.down = False
    pipe.send("open")
    pipe.recv()
    began = time.monotonic()
    prober.kill()
    prober.join()
    while time.monotonic() < began + patience:
        if outcome(here) is None:
            return time.monotonic() - began
        time.sleep(0.02)
    return None


@contextmanager
def _stopped(server: Server) -> Iterator[None]:
    """Stop the server process, so that connections succeed and no answer comes."""
    pid: int = server.client.info("server")["process_id"]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _hung(patience: float) -> Iterator[report.Row]:
    """Yield rows for calls while Redis hangs: the duration of the first call, and of the slowest later call."""
    calls = 50
    with valkey() as server:
        pipes: dict[str, Any] = {}
        processes = []
        for name in HANGING:
            pipes[name], theirs = SPAWN.Pipe()
            processes.append(SPAWN.Process(target=members.ask_hung, args=(name, server.port, calls, theirs)))
            processes[-1].start()
            theirs.close()
        for pipe in pipes.values():
            pipe.recv()
        time.sleep(0.5)  # cached verdicts expire
        took: dict[str, list[float]] = {name: [] for name in HANGING}
        with _stopped(server):
            for name in (OUR_BREAKER, OUR_LIMITER):  # first, because the other libraries keep the machine busy
                pipes[name].send("go")
                took[name] = [pipes[name].recv() for _ in range(calls)]
            for name, pipe in pipes.items():
                if not took[name]:
                    pipe.send("go")
            until = time.monotonic() + patience
            for name, pipe in pipes.items():
                while len(took[name]) < calls and pipe.poll(max(0.0, until - time.monotonic())):
                    took[name].append(pipe.recv())
            for process in processes:
                process.kill()
                process.join()
    for what, ours, kind in (("breaker", OUR_BREAKER, True), ("limiter", OUR_LIMITER, False)):
        peers = [name for name in HANGING if name.startswith("breaker: ") is kind and name != ours]
        firsts = [_within(name.removeprefix("breaker: "), next(iter(took[name]), None), patience) for name in peers]
        yield report.Row(
            f"Redis hung, {what}: the first call", "s", ours=took[ours][0], target=0.3, peers=firsts, compared=False
        )
        laters = [
            report.Best(name.removeprefix("breaker: "), max(took[name][1:]) * 1000)
            for name in peers
            if len(took[name]) == calls
        ]
        yield report.Row(
            f"Redis hung, {what}: the slowest of the next {calls - 1}",
            "ms",
            ours=max(took[ours][1:]) * 1000,
            target=1.0,
            compared=False,
            peers=laters,
        )
