"""Meters for what a call costs that depend on no machine, and on nothing else that it does."""

from __future__ import annotations

import gc
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import repeat
from types import FrameType
from typing import Any, NamedTuple

from django.db import connections
from django.db.backends.signals import connection_created

from benchmarks.stage import Server

Call = Callable[[], object]

YARDSTICK = 369
"""What Python 3.11 takes for :func:`yardstick`."""


def yardstick() -> None:
    """A bit of everything that Python does; what it takes says how finely a version of Python cuts instructions."""

    class Thing:
        number = 0

    thing = Thing()
    for number in range(10):
        thing.number += number
        by_name = {"a": (number, thing.number)}
        f"{number}:{by_name['a'][1]}"
        nothing()


def nothing() -> None:
    """What is guarded."""


class Instructions(NamedTuple):
    """What the interpreter does for a call, in bytecode instructions of Python 3.11."""

    number: int
    by_function: Counter[str]

    def beyond(self, other: Instructions) -> Instructions:
        """What this call takes more than ``other``."""
        return Instructions(self.number - other.number, self.by_function - other.by_function)

    def __str__(self) -> str:
        most = ", ".join(f"{name} {number}" for name, number in self.by_function.most_common(12))
        return f"{self.number} instructions; by function: {most}"


def instructions(call: Call) -> Instructions:
    """What ``call`` takes once everything is warm."""
    unit = _traced(yardstick).total() / YARDSTICK
    for _ in range(3):
        call()
    found = _traced(call)
    return Instructions(round(found.total() / unit), found)


def _traced(call: Call) -> Counter[str]:
    seen: Counter[str] = Counter()

    def trace(frame: FrameType, event: str, _: object) -> Any:
        frame.f_trace_opcodes = True
        if event == "opcode":
            seen[frame.f_code.co_qualname] += 1
        return trace

    sys._getframe().f_trace_opcodes = True  # Python 3.12 looks for that when tracing begins
    before = sys.gettrace()
    gc.disable()  # what others left behind may have finalizers
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
        gc.enable()
    return seen


def blocks_kept(call: Call, times: int = 10_000) -> int:
    """How many more blocks of memory are in use after so many calls, garbage apart."""

    def kept() -> int:
        gc.collect()
        before = sys.getallocatedblocks() + 1  # with this number itself
        for _ in repeat(None, times):
            call()
        gc.collect()
        return sys.getallocatedblocks() - before

    return min(kept() for _ in range(3))


class Wire(NamedTuple):
    """What goes over the wire for one call."""

    commands: float
    sent: int
    """Bytes to the server."""
    received: int
    """Bytes from it."""


def wire(server: Server, calls: list[Call]) -> Wire:
    """What each of these calls costs, which are alike."""

    def moved() -> tuple[int, int]:
        stats: Any = server.client.info("stats")
        return stats["total_net_input_bytes"], stats["total_net_output_bytes"]

    calls[0]()  # whatever is said only once
    first, second = calls[1 : len(calls) // 2], calls[len(calls) // 2 :]
    with server.watched() as seen:
        for call in first:
            call()
    moved()
    idle, begin = moved(), moved()
    for call in second:
        call()
    end = moved()
    sent, received = (
        (after - before - (before - without)) / len(second)
        for without, before, after in zip(idle, begin, end, strict=True)
    )
    return Wire(seen[0].commands / len(first), round(sent), round(received))


@contextmanager
def statements(alias: str) -> Iterator[Callable[[Call], float]]:
    """Counts the statements of a call on connections of ``alias`` that open meanwhile, as the driver sends them."""
    seen: Counter[str] = Counter()
    watched: list[Any] = []
    with tempfile.TemporaryFile("w+") as log:

        def watch(connection: Any, **_: Any) -> None:
            if connection.vendor == "postgresql":
                watched.append(connection.connection.pgconn)
                watched[-1].trace(log.fileno())
            else:
                connection.connection.set_trace_callback(lambda statement: seen.update([statement]))

        def number() -> int:
            log.seek(0)
            asked = sum(line.split("\t")[3] in ("Query", "Execute") for line in log if line.count("\t") > 2)
            return asked + seen.total()

        def count(call: Call, times: int = 10) -> float:
            for _ in range(8):  # records are made, and psycopg prepares what it has seen five times
                call()
            before = number()
            for _ in repeat(None, times):
                call()
            return (number() - before) / times

        connection_created.connect(watch)
        connections[alias].close()
        try:
            yield count
        finally:
            connection_created.disconnect(watch)
            for each in watched:
                each.untrace()
            connections[alias].close()
