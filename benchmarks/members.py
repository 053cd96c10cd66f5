"""What the other processes of the cases do."""

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
    logging.disable(logging.CRITICAL)  # of breakers that open, and of stores that are unavailable


def race(breaker: str, port: int, names: list[str], recovery: float, asked: Barrier, pipe: Connection) -> None:
    """Call through each of the breakers at the same moment as the others; send how often that got through.

    Who gets through stays in the call until all have asked, so nobody can come late and find it closed again.
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
    while time.time() < first + recovery - 0.5:  # some hear only after a second that it is open, or may be probed
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
    """Once it has been refused, probe as soon as it may, say so, and never end."""
    _begin()
    heard = False

    def probed() -> None:
        if heard:  # else it is a call by somebody who does not know yet that it is open
            pipe.send("probing")
            signal.pause()

    guarded = SHARED[breaker].guard(probed, Server(port), **wanted)
    pipe.send("ready")
    pipe.recv()
    while True:
        heard = outcome(guarded) is not None or heard
        time.sleep(0.05)


def ask_hung(contender: str, port: int, calls: int, pipe: Connection) -> None:
    """Ask the server once; then, when told, ask it again and say how long each call took."""
    _begin()
    call = HANGING[contender](Server(port))
    call()
    pipe.send("ready")
    pipe.recv()
    for _ in range(calls):
        began = time.monotonic()
        outcome(call)
        pipe.send(time.monotonic() - began)
