"""A server of several is lost, and another takes over: behind a Sentinel, and in a Cluster of six."""

from __future__ import annotations

from itertools import count

import pytest

from ratelimit_core.backends import RedisBackend
from tests.backends.redis.topology import Cluster, Watched, cluster, watched

from .conftest import Saw
from .scenario import RETRY_AFTER, Fault, endure, fleet

pytestmark = [pytest.mark.whole, pytest.mark.timed]

DOWN_AFTER = 2.0
"""Seconds until the Sentinel takes a master for down: time enough for what has to be seen before."""
ELECTED = DOWN_AFTER + 3.0 + RETRY_AFTER

SENTINEL: list[Fault[Watched]] = [
    Fault("Redis failed over by a Sentinel", "SIGKILL of the master", lambda it: it.master.kill(), recovery=ELECTED),
    Fault(
        "Redis failed over by a Sentinel",
        "SIGSTOP of the master",
        lambda it: it.master.hang(),
        recovery=ELECTED,
    ),
]


@pytest.mark.parametrize("fault", SENTINEL, ids=lambda fault: fault.injected)
def test_behind_a_sentinel(fault: Fault[Watched], saw: Saw) -> None:
    with watched(down_after=int(1000 * DOWN_AFTER)) as setup, fleet(lambda: RedisBackend(setup.url)) as members:
        saw(endure(fault, setup, members))


CLUSTER: list[Fault[Cluster]] = [
    Fault(
        "Redis failed over in a Cluster of 6",
        "SIGKILL of a master",
        lambda it: it.masters[0].kill(),
        recovery=ELECTED,
    ),
    Fault(
        "Redis failed over in a Cluster of 6",
        "SIGSTOP of a master",
        lambda it: it.masters[0].hang(),
        recovery=ELECTED,
    ),
]


@pytest.mark.parametrize("fault", CLUSTER, ids=lambda fault: fault.injected)
def test_in_a_cluster(fault: Fault[Cluster], saw: Saw) -> None:
    with cluster(replicated=True) as setup:

        def of_the_first(name: str) -> str:
            return next(each for i in count() if setup.home(each := f"{name}-{i}") is setup.masters[0])

        with fleet(lambda: RedisBackend(setup.url), of_the_first) as members:
            saw(endure(fault, setup, members))
