"""How many may pass in any interval of one period: 4 processes with 8 threads each on one store and its clock.

Valkey alone, as the first of several stores, as two over which the names are spread, behind a Sentinel, and as a
Cluster; databases are hammered beside theirs.

When the server admitted a hit is not known, only that it was between asking and hearing of it. So a hit is
counted only in the intervals in which it was for certain: no delay of this machine can make these tests fail.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from contextlib import ExitStack

import pytest

from tests.redis import topology
from tests.servers import Process

from . import hammer

PROCESSES = 4
PERIOD_NS = int(hammer.PERIOD * 1e9)


def hammered(*command: str, environ: Mapping[str, str] | None = None) -> dict[str, hammer.Spans]:
    """What the processes got that were started with ``command``, and when."""
    with ExitStack() as stack:
        processes = [stack.enter_context(Process.python(*command, environ=environ)) for _ in range(PROCESSES)]
        for process in processes:
            process.wait_for("ready")
        for process in processes:
            process.tell("go")
        told = [json.loads(process.wait_for("spans", timeout=90).partition(" ")[2]) for process in processes]
    return {name: [(start, end) for spans in told for start, end in spans[name]] for name in told[0]}


@pytest.fixture(scope="module", params=["valkey", "multi", "round_robin", "sentinel", "cluster"])
def spans(request: pytest.FixtureRequest, valkey_url: str) -> dict[str, hammer.Spans]:
    with ExitStack() as stack:
        url = valkey_url
        if request.param == "sentinel":
            url = stack.enter_context(topology.watched(down_after=60_000)).url  # busy, it is not down
        elif request.param == "cluster":
            url = stack.enter_context(topology.cluster()).url
        return hammered("-m", "tests.limits.hammer", url, request.param)


def busiest(spans: hammer.Spans) -> int:
    """The most that were for certain in one interval of one period."""
    return max(sum(start <= other and end < start + PERIOD_NS for other, end in spans) for start, _ in spans)


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
    assert busiest(spans[algorithm]) <= documented
    assert len(spans[algorithm]) > documented  # they wanted more than once what there is


def most_at_a_time(spans: hammer.Spans) -> int:
    edges = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    return max(itertools.accumulate(step for _, step in edges))


def test_no_more_run_at_a_time_than_there_are_places(spans: dict[str, hammer.Spans]) -> None:
    assert 1 < most_at_a_time(spans["places"]) <= hammer.PLACES
