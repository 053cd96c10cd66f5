"""The functions that run in the other processes of the cases."""

from __future__ import annotations

import logging
import signal
import time
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from typing import Any

from example_worker.processes import die_with_parent

from .breakers import SHARED, outcome
from .hung import HANGING
from .measure import Call
from .stage import Server

PATIENCE = 60.0


def _begin() -> None:
    die_with_parent()
    logging.disable(logging.CRITICAL)  # no logs of breakers that open and of stores that are unavailable


def race(breaker: str, port: int, names: list[str], recovery: float, asked: Barrier, pipe: Connection) -> None:
    """Call through each breaker at the same moment as the other processes, and send the names that got through.

    A call that gets through lasts until all processes have asked, so that no late process finds the breaker closed.
    """
    _begin()
    through: list[str] = []
    racing = False
    server = Server(port)

    def guard(name: str) -> Call:
        def probed() -> None:
            through.append(name)
            if racing:
                asked.wait(PATIENCE)

        return SHARED[breaker].guard(probed, server, name=name, recovery=recovery, socket_timeout=PATIENCE)

    guards = [guard(name) for name in names]
    pipe.send("ready")
    first, last = pipe.recv()
    while time.time() < first + recovery - 0.5:  # some libraries notice only after a second that the breaker is open
        for guarded in guards:
            outcome(guarded)
        time.sleep(0.4)
    time.sleep(last + recovery + 2.0 - time.time())
    through.clear()
    racing = True
    for guarded in guards:
        asked.wait(PATIENCE)
        before = len(through)
        outcome(guarded)
        if len(through) == before:
            asked.wait(PATIENCE)
    pipe.send(through)


def probe(breaker: str, port: int, wanted: dict[str, Any], pipe: Connection) -> None:
    """Wait for a rejection, then run a probe, report it, and never end."""
    _begin()
    heard = False

    def probed() -> None:
        if heard:  # otherwise this process does not know yet that the breaker is open
            pipe.send("probing")
            signal.pause()

    guarded = SHARED[breaker].guard(probed, Server(port), **wanted)
    pipe.send("ready")
    pipe.recv()
    while True:
        heard = outcome(guarded) is not None or heard
        time.sleep(0.05)


def ask_hung(contender: str, port: int, calls: int, pipe: Connection) -> None:
    """Ask the server once. After a message, ask it ``calls`` times and send the duration of each call in seconds."""
    _begin()
    call = HANGING[contender](Server(port))
    call()
    pipe.send("ready")
    pipe.recv()
    for _ in range(calls):
        began = time.monotonic()
        outcome(call)
        pipe.send(time.monotonic() - began)
