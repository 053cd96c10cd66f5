"""What a long-lived process holds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

import psutil


class Vitals(NamedTuple):
    memory: float
    """MB that are resident."""
    descriptors: int
    threads: int


def of(process: psutil.Process) -> Vitals:
    with process.oneshot():
        return Vitals(process.memory_info().rss / 2**20, process.num_fds(), process.num_threads())


def typical(samples: Sequence[Vitals]) -> Vitals:
    """The median of each."""
    return Vitals(*(statistics.median(column) for column in zip(*samples, strict=True)))


def connections(process: psutil.Process, port: int) -> set[int]:
    """The ports of its own from which it is connected to ``port``."""
    return {each.laddr.port for each in process.net_connections("tcp") if getattr(each.raddr, "port", None) == port}
