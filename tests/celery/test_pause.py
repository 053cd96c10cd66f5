"""``on_open="pause"``: the queues of an open breaker are left alone, and what waits in them stays in the broker."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from resilient_tasks.execution.wait_header import HEADER, SLOT, Waiting
from tests.celery.conftest import Fleet, connect_anew
from tests.servers import Process, eventually

Gather = Callable[..., list[Any]]
BOTH = ("-Q", "celery,settling")


def deliveries(workers: list[Process], results: list[Any]) -> list[int]:
    """How often each was delivered."""
    lines = [line for worker in workers for line in worker.lines if "received" in line]
    return [sum(f"[{result.id}] received" in line for line in lines) for result in results]


def in_queue(fleet: Fleet) -> int:
    with fleet.app.connection_for_write() as connection:
        return int(connection.default_channel.client.llen("settling"))


def opened(fleet: Fleet) -> bool:
    return bool(fleet.module.settle.resilience.breaker.state == "open")


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent", "solo"])
def test_a_worker_that_starts_while_it_is_open_never_begins_to_consume(fleet: Fleet, gather: Gather, pool: str) -> None:
    breaker = fleet.module.settle.resilience.breaker
    breaker.force_open("somebody", "they are moving")
    orders = [fleet.module.settle.delay(n) for n in range(30)]
    worker = fleet.worker("-c", "2", "-P", pool, *BOTH)
    assert fleet.module.plain.delay(1).get(timeout=20) == 1  # other queues go on
    assert in_queue(fleet) == 30
    breaker.reset()
    assert sorted(gather(orders)) == list(range(30))
    assert deliveries([worker], orders) == [1] * 30
    assert {result.backend.get_task_meta(result.id)["retries"] for result in orders} == {0}


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent"])
def test_an_outage_delivers_once_and_twice_what_was_prefetched(fleet: Fleet, gather: Gather, pool: str) -> None:
    workers = [fleet.worker("-c", "2", "-P", pool, *BOTH) for _ in range(2)]
    fleet.outage()
    orders = [fleet.module.settle.delay(n) for n in range(120)]
    eventually(lambda: opened(fleet))
    eventually(lambda: in_queue(fleet) >= 100)
    assert fleet.module.plain.delay(1).get(timeout=20) == 1
    seen = fleet.calls
    eventually(lambda: fleet.calls >= seen + 2)  # probes go on
    fleet.recovery()
    assert sorted(gather(orders)) == list(range(120))
    assert fleet.world.hvals("runs") == ["1"] * 120
    times = deliveries(workers, orders)
    failed = fleet.calls - 120  # each of those ran in vain once more
    prefetched = 2 * 2 * (1 + 4)
    assert sum(times) <= 120 + prefetched + 2 * failed, times
    spent = sum(result.backend.get_task_meta(result.id)["retries"] for result in orders)
    assert spent <= 2  # of the failures before the one that opened it


def test_what_a_person_cancelled_is_not_taken_up_again(fleet: Fleet) -> None:
    breaker = fleet.module.settle.resilience.breaker
    breaker.force_open()
    worker = fleet.worker("-c", "1", *BOTH)
    worker.wait_for("settling is stopped")
    fleet.app.control.cancel_consumer("settling", reply=True)
    worker.wait_for("Canceling queue settling")
    breaker.reset()
    worker.wait_for("settling is releasing")
    late = fleet.module.settle.delay(1)
    assert fleet.module.plain.delay(1).get(timeout=20) == 1
    assert in_queue(fleet) == 1
    fleet.app.control.add_consumer("settling", reply=True)
    assert late.get(timeout=20) == 1


def test_an_empty_queue_keeps_nobody_from_probing(fleet: Fleet) -> None:
    worker = fleet.worker("-c", "1", *BOTH)
    breaker = fleet.trip("settle")
    worker.wait_for("settling is stopped")
    eventually(lambda: breaker.get_status()["next_attempt_time"] < time.time())
    eventually(breaker.is_allowed, timeout=3)
    breaker.report_success()
    assert fleet.module.settle.delay(1).get(timeout=20) == 1


def test_acknowledged_early_it_is_put_off_and_nothing_is_lost(fleet: Fleet, gather: Gather) -> None:
    fleet.worker("-c", "2", *BOTH)
    fleet.outage()
    orders = [fleet.module.settle_early.delay(n) for n in range(40)]
    eventually(lambda: opened(fleet))
    fleet.recovery()
    assert sorted(gather(orders)) == list(range(40))
    assert fleet.world.hvals("runs") == ["1"] * 40


def test_two_breakers_on_one_queue(fleet: Fleet, gather: Gather) -> None:
    """While either is open the queue is left alone, and each is probed by a task of its own."""
    worker = fleet.worker("-c", "2", *BOTH)
    other = fleet.trip("settle_other")
    worker.wait_for("breaker 'settling-other': settling is stopped")
    mine = [fleet.module.settle.delay(n) for n in range(5)]
    theirs = [fleet.module.settle_other.delay(n) for n in range(5)]
    assert sorted(gather(mine)) == sorted(gather(theirs)) == list(range(5))
    assert other.state == "closed"


def cut_connections(fleet: Fleet, worker: Process) -> None:
    """Cut all connections to the broker until the worker notices: between two polls its client mends them silently."""

    def reconnected() -> bool:
        if sum("Connected to" in line for line in worker.lines) > 1:
            return True
        with fleet.app.connection_for_write() as connection:
            connection.default_channel.client.client_kill_filter(_type="normal", skipme=True)
        return False

    eventually(reconnected, every=2.0)
    connect_anew(fleet.app)  # the test's own were cut, too


def test_a_lost_connection_does_not_have_it_taken_up(fleet: Fleet, gather: Gather) -> None:
    worker = fleet.worker("-c", "1", *BOTH)
    breaker = fleet.module.settle.resilience.breaker
    breaker.force_open()
    worker.wait_for("settling is stopped")
    orders = [fleet.module.settle.delay(n) for n in range(5)]
    cut_connections(fleet, worker)
    assert fleet.module.plain.delay(1).get(timeout=30) == 1
    assert in_queue(fleet) == 5
    breaker.reset()
    assert sorted(gather(orders)) == list(range(5))
    assert deliveries([worker], orders) == [1] * 5


def test_who_waits_for_a_turn_when_the_connection_is_lost_runs_once(fleet: Fleet, gather: Gather) -> None:
    worker = fleet.worker("-c", "1", *BOTH)
    breaker = fleet.module.settle_slowly.resilience.breaker
    breaker.force_open()
    worker.wait_for("settling is stopped")
    orders = [fleet.module.settle_slowly.delay(n) for n in range(4)]
    breaker.reset()
    assert orders[0].get(timeout=20) == 0
    for order in orders:  # one has run, the others have turns in 3, 6 and 9 seconds
        worker.wait_for(f"{order.id}] received")
    cut_connections(fleet, worker)
    assert sorted(gather(orders)) == list(range(4))
    last_turn = time.monotonic() + 10
    eventually(lambda: time.monotonic() > last_turn)  # of those that were kept here then
    assert fleet.world.hvals("runs") == ["1"] * 4


def test_a_turn_is_awaited_no_longer_than_the_broker_leaves_it_here(fleet: Fleet, gather: Gather) -> None:
    workers = [fleet.worker("-c", "1", *BOTH, FLEET_VISIBILITY="4") for _ in range(2)]
    breaker = fleet.module.settle_hourly.resilience.breaker
    breaker.force_open()
    for worker in workers:
        worker.wait_for("settling is stopped")
    orders = [fleet.module.settle_hourly.delay(n) for n in range(5)]
    breaker.reset()
    assert sorted(gather(orders)) == list(range(5))
    assert fleet.world.hvals("runs") == ["1"] * 5


def test_to_end_one_that_is_held_ends_no_other(fleet: Fleet) -> None:
    worker = fleet.worker("-c", "1", *BOTH, FLEET_PREFETCH="0")  # so that others come in beside those that are held
    fleet.outage()
    breaker = fleet.module.settle.resilience.breaker
    refused: list[str] = []
    while not refused:  # until a task is in the pool already when the breaker opens
        breaker.reset()
        for n in range(8):
            fleet.module.settle.delay(n)
        eventually(lambda: breaker.peek(refresh=True)[0] == "open")
        refused = [line for line in worker.lines if "ignored" in line]
    held = refused[-1].partition("settle[")[2].partition("]")[0]  # for a second, it is
    other = fleet.module.alone.delay(1)
    eventually(lambda: fleet.module.alone.resilience.limiter.peek().remaining == 0)
    fleet.app.control.revoke(held, terminate=True, signal="SIGKILL", reply=True)
    fleet.world.rpush("end 1", 1)
    assert other.get(timeout=20) == 1


def test_a_probe_that_goes_on_keeps_its_place_beyond_its_lease(fleet: Fleet) -> None:
    lease = 2.0
    worker = fleet.worker("-c", "1", *BOTH, FLEET_LEASE=str(lease))
    task = fleet.module.settle_alone
    fleet.trip("settle_alone")
    worker.wait_for("settling is stopped")
    probing = task.delay(1)
    eventually(lambda: task.resilience.limiter.peek().remaining == 0)
    eventually(lambda: task.resilience.breaker.state == "half_open")
    held_since = time.monotonic()
    eventually(lambda: time.monotonic() > held_since + lease + 2)
    assert task.resilience.limiter.peek().remaining == 0
    fleet.world.rpush("end 1", 1)
    assert probing.get(timeout=20) == 1


def test_a_probe_that_runs_on_while_the_connection_is_lost_stays_the_only_one(fleet: Fleet) -> None:
    worker = fleet.worker("-c", "1", *BOTH)
    task = fleet.module.settle_alone
    breaker = fleet.trip("settle_alone")
    worker.wait_for("settling is stopped")
    probing = task.delay(1)
    eventually(lambda: breaker.get_status()["half_open_calls"] == 1)
    eventually(lambda: task.resilience.limiter.peek().remaining == 0)
    with fleet.app.connection_for_write() as connection:
        client = connection.default_channel.client

        def consuming() -> list[str]:
            return [each["id"] for each in client.client_list() if each["cmd"] == "brpop"]

        eventually(consuming)  # from other queues
        for each in consuming():
            client.client_kill_filter(_id=each)
    connect_anew(fleet.app)  # some of them may have been the test's own
    worker.wait_for("Connected to", times=2)
    worker.wait_for("settling is stopped", times=2)
    assert breaker.get_status()["half_open_calls"] == 1
    fleet.world.rpush("end 1", 1, 1)  # the broker delivers it again
    assert probing.get(timeout=20) == 1
    eventually(lambda: breaker.state == "closed")


def test_a_pool_that_grows_and_shrinks_takes_nothing_up(fleet: Fleet, gather: Gather) -> None:
    worker = fleet.worker("--autoscale=4,1", *BOTH)
    breaker = fleet.module.settle.resilience.breaker
    breaker.force_open()
    worker.wait_for("settling is stopped")
    orders = [fleet.module.settle.delay(n) for n in range(5)]
    gather([fleet.module.plain.delay(n) for n in range(60)])
    fleet.app.control.pool_grow(2, reply=True)
    assert fleet.module.plain.delay(1).get(timeout=20) == 1
    assert in_queue(fleet) == 5
    breaker.reset()
    assert sorted(gather(orders)) == list(range(5))
    assert deliveries([worker], orders) == [1] * 5


def test_a_reserved_slot_is_its_turn(fleet: Fleet) -> None:
    """Where tasks are released turn by turn, here one a minute, who has a slot of the limit comes at its time."""
    settle = fleet.module.settle_limited
    breaker = settle.resilience.breaker
    breaker.force_open()
    others = [settle.delay(n) for n in range(2)]
    slot = settle.resilience.limiter.reserve(
        10, key=settle.resilience.subject((2,), {}).key, lease_id=f"lease id{SLOT}"
    )
    carried = Waiting(deferrals=1, slot=(slot.denied_by, slot.lease_id, slot.cost)).header()
    holder = settle.apply_async((2,), headers={HEADER: carried})
    left = [settle.delay(n) for n in range(3, 10)]
    worker = fleet.worker("-c", "1", *BOTH)
    worker.wait_for("settling is stopped")
    breaker.reset()
    worker.wait_for("settling is releasing")
    assert holder.get(timeout=20) == 2
    assert others[0].get(timeout=20) == 0
    assert {each.state for each in (others[1], *left)} == {"PENDING"}
