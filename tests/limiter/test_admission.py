"""How many may pass in any interval of one period: 4 processes with 8 threads each on one store and its clock.

Memory, with the threads of one process; Valkey alone, as the first of several stores, as two over which the names are
spread, behind a Sentinel, and as a Cluster. Databases are hammered beside theirs, and for longer all of them in
tests/faults.
"""

from __future__ import annotations

import itertools
import json
from bisect import bisect_left
from collections.abc import Mapping
from contextlib import ExitStack

import pytest

from ratelimit_core._util.clock import SECOND, monotonic, wall
from tests.backends.redis import topology
from tests.servers import Process

from . import hammer

PROCESSES = 4
PERIOD = int(hammer.PERIOD * SECOND)
THREADS = "32"


def hammered(
    *command: str, environ: Mapping[str, str] | None = None, processes: int = PROCESSES, timeout: float = 90
) -> dict[str, hammer.Spans]:
    """What the processes got that were started with ``command``, and when."""
    with ExitStack() as stack:
        started = [stack.enter_context(Process.python(*command, environ=environ)) for _ in range(processes)]
        return told(started, timeout)


def told(processes: list[Process], timeout: float = 90) -> dict[str, hammer.Spans]:
    """What ``processes`` got, all at once and by one clock."""
    for process in processes:
        process.wait_for("ready")
    for process in processes:
        process.tell(str(wall() - monotonic()))
    got = [json.loads(process.wait_for("spans", timeout).partition(" ")[2]) for process in processes]
    return {name: [(start, end) for spans in got for start, end in spans[name]] for name in got[0]}


@pytest.fixture(scope="module", params=["memory", "valkey", "multi", "round_robin", "sentinel", "cluster"])
def spans(request: pytest.FixtureRequest, valkey_url: str) -> dict[str, hammer.Spans]:
    with ExitStack() as stack:
        url = valkey_url
        if request.param == "memory":
            return hammered("-m", "tests.limiter.hammer", "", "memory", THREADS, processes=1)
        if request.param == "sentinel":
            url = stack.enter_context(topology.watched()).url
        elif request.param == "cluster":
            url = stack.enter_context(topology.cluster()).url
        return hammered("-m", "tests.limiter.hammer", url, request.param)


def busiest(spans: hammer.Spans) -> int:
    """The most in one interval of one period: it begins with one of them."""
    times = sorted(start for start, _ in spans)
    return max(bisect_left(times, start + PERIOD) - first for first, start in enumerate(times))


DOCUMENTED = {
    "sliding_window": hammer.LIMIT,
    "sliding_window_counter": hammer.LIMIT,
    "fixed_window": 2 * hammer.LIMIT,
    "token_bucket": hammer.LIMIT + hammer.LIMIT,
    "leaky_bucket": 1 + hammer.LIMIT,
}
"""The most in an interval of one period."""


@pytest.mark.parametrize(("algorithm", "documented"), DOCUMENTED.items())
def test_no_interval_sees_more_than_is_documented(
    spans: dict[str, hammer.Spans], algorithm: str, documented: int
) -> None:
    most = busiest(spans[algorithm])
    assert most <= documented
    assert len(spans[algorithm]) > documented  # they wanted more than once what there is


def most_at_a_time(spans: hammer.Spans) -> int:
    edges = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    return max(itertools.accumulate(step for _, step in edges))


def test_no_more_run_at_a_time_than_there_are_places(spans: dict[str, hammer.Spans]) -> None:
    most = most_at_a_time(spans["places"])
    assert 1 < most <= hammer.PLACES
