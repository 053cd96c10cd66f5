"""Limits on tasks, over a fleet of real workers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.celery.conftest import Fleet
from tests.servers import eventually

Gather = Callable[..., list[Any]]


def most_within(times: list[float], period: float) -> int:
    """The largest number of ``times`` in any interval of ``period``."""
    times = sorted(times)
    first = most = 0
    for last, at in enumerate(times):
        while at - times[first] >= period:
            first += 1
        most = max(most, last - first + 1)
    return most


@pytest.mark.timed
def test_a_fleet_keeps_a_rate_and_spends_no_retry_on_it(fleet: Fleet, gather: Gather) -> None:
    fleet.worker("-c", "2")
    fleet.worker("-c", "2")
    results = [fleet.module.limited.delay(n) for n in range(40)]
    assert sorted(gather(results)) == list(range(40))
    times = [float(at) for at in fleet.world.lrange("limited", 0, -1)]
    assert len(times) == 40
    # The store admits at most 10 in any second; a run notes its time a little after it was admitted.
    assert most_within(times, 0.9) <= 10
    assert 2.9 <= max(times) - min(times) < 3.0 * 1.5  # 40 of them, of which the first 10 at once
    assert {result.backend.get_task_meta(result.id)["retries"] for result in results} == {0}


@pytest.mark.timed
def test_workers_that_were_away_longer_than_the_queue_of_slots_keep_the_limit(fleet: Fleet, gather: Gather) -> None:
    worker = fleet.worker("-c", "2", FLEET_PREFETCH="0")
    results = [fleet.module.limited_late.delay(n) for n in range(30)]
    worker.wait_for("retry: Retry in", times=15)  # these wait in the worker, each with a slot of its own
    worker.kill()  # what runs just now is delivered again, since it is acknowledged late
    worker.popen.wait()
    world = fleet.world
    done = world.llen("limited")
    # What the dead worker held is delivered again once all slots have passed.
    last_slot = time.time() + 2.5
    eventually(lambda: time.time() > last_slot)
    fleet.redeliver()
    fleet.worker("-c", "4")
    assert sorted(gather(results)) == list(range(30))
    times = [float(at) for at in world.lrange("limited", 0, -1)]
    assert len(times) >= 30 > done
    assert most_within(times, 0.9) <= 10


def test_workers_that_can_hardly_keep_up_get_all_done(fleet: Fleet, gather: Gather) -> None:
    """Each delivery costs 12 ms and holds for 2 s: of 400 that wait, slots would be missed by nearly all."""
    results = [fleet.module.limited_crowd.delay(n) for n in range(400)]
    fleet.worker("-c", "1", FLEET_SLOW="0.012", FLEET_VISIBILITY="4")
    assert sorted(gather(results, timeout=60)) == list(range(400))  # 10 s at the rate


@pytest.mark.timed
def test_a_turn_that_the_broker_can_not_hold_for_so_long_is_kept_all_the_same(fleet: Fleet, gather: Gather) -> None:
    fleet.worker("-c", "4", FLEET_VISIBILITY="4")
    fleet.trip("paced")
    results = [fleet.module.paced.delay(n) for n in range(8)]
    assert sorted(gather(results)) == list(range(8))
    assert most_within([float(at) for at in fleet.world.lrange("paced", 0, -1)], 0.9) <= 2


def test_a_wait_carries_no_frames_but_the_one_that_it_leaves_by(fleet: Fleet) -> None:
    """Each costs kilobytes in the pipe between a child and its worker, where all have to fit when the worker stops."""
    fleet.worker("-c", "1")
    task = fleet.module.per_tenant
    waiting = [task.delay(n, tenant="slow") for n in range(3)]
    eventually(lambda: any(result.state == "RETRY" for result in waiting))
    fleet.trip("steady")
    waiting.append(fleet.module.steady.delay(1))
    eventually(lambda: waiting[-1].state == "RETRY")
    texts = [str(result.traceback) for result in waiting if result.state == "RETRY"]
    assert len(texts) == 2
    for text in texts:
        assert [line.split(" in ")[-1] for line in _last(text) if line.startswith("  File")] == [
            "trace_task",
            "__call__",
        ]


def _last(text: str) -> list[str]:
    """The lines of a traceback, after those of what caused it."""
    return text.rpartition("direct cause of the following")[2].splitlines()


@pytest.mark.whole
def test_workers_that_stop_while_tasks_wait_come_to_an_end(fleet: Fleet, gather: Gather) -> None:
    """Celery reads no result of a task that it handed over just then: its child gives up after half a minute."""
    results = [fleet.module.limited_crowd.delay(n) for n in range(400)]
    for _ in range(4):
        worker = fleet.worker("-c", "4")
        worker.wait_for("retry: Retry in", times=40)
        worker.popen.terminate()
        assert worker.popen.wait(60) == 0
    fleet.worker("-c", "4")
    assert sorted(gather(results)) == list(range(400))


def test_a_limit_for_each_tenant(fleet: Fleet, gather: Gather) -> None:
    worker = fleet.worker()
    task = fleet.module.per_tenant
    assert gather([task.delay(n, tenant="a") for n in range(2)]) == ["a 0", "a 1"]
    late = task.delay(3, tenant="a")
    assert task.delay(4, "b").get(timeout=20) == "b 4"
    worker.wait_for("RateLimitExceeded('tests.celery.fleet.per_tenant' limited")
    assert late.state == "RETRY"


def test_no_more_than_so_many_run_at_a_time(fleet: Fleet, gather: Gather) -> None:
    fleet.worker("-c", "3")
    fleet.worker("-c", "3")
    results = [fleet.module.two_at_a_time.delay(n) for n in range(6)]
    eventually(lambda: fleet.world.get("running") == "2")
    for _ in results:
        fleet.world.rpush("go on", 1)
    assert sorted(gather(results)) == list(range(6))
    assert max(int(running) for running in fleet.world.lrange("running at a time", 0, -1)) == 2


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent"])
def test_a_run_that_goes_on_keeps_its_place_beyond_its_lease(fleet: Fleet, pool: str) -> None:
    """Which is of five minutes, but for this test."""
    lease = 2.0
    first = fleet.worker("-c", "1", "-P", pool, FLEET_LEASE=str(lease))
    long = fleet.module.alone.delay(1)
    first.wait_for("alone[")
    limiter = fleet.module.alone.resilience.limiter
    eventually(lambda: limiter.peek().remaining == 0)
    held_since = time.monotonic()
    second = fleet.module.alone.delay(2)
    eventually(lambda: time.monotonic() > held_since + lease + 2)
    assert limiter.peek().remaining == 0
    assert long.state == "PENDING"
    fleet.world.rpush("end 1", 1)
    fleet.world.rpush("end 2", 1)
    assert long.get(timeout=20) == 1
    assert second.get(timeout=20) == 2


def test_one_that_expired_while_its_pool_was_busy_is_revoked(fleet: Fleet) -> None:
    worker = fleet.worker("-P", "threads", "-c", "1")
    task = fleet.module.per_tenant
    for n in range(2):
        assert task.delay(n, tenant="late").get(timeout=20)
    fleet.module.alone.delay(1)
    worker.wait_for("alone[")
    late = task.apply_async((3,), {"tenant": "late"}, expires=1)
    sent = time.monotonic()
    worker.wait_for(f"{late.id}] received")
    eventually(lambda: time.monotonic() > sent + 1.2)
    fleet.world.rpush("end 1", 1)
    eventually(lambda: late.state == "REVOKED")
