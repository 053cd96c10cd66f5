"""What is published while a breaker is open, and what becomes of those that waited long enough."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery import chain

from ratelimit_core import CircuitBreakerError
from resilient_tasks.execution.dead_letters import replay
from tests.celery.conftest import Fleet
from tests.servers import Process, eventually

Gather = Callable[..., list[Any]]


def test_who_would_rather_know_at_once_is_told_when_publishing(fleet: Fleet) -> None:
    module = fleet.module
    assert module.publish_or_raise.delay(1).id  # closed: it is published
    breaker = fleet.trip("publish_or_raise")
    asked = breaker.stats["rejections"]
    for _ in range(3):
        with pytest.raises(CircuitBreakerError, match="'ledger' open, retry in"):
            module.publish_or_raise.delay(2)
    assert module.publish_or_else.delay(3).get() == "noted 3"
    assert breaker.stats["rejections"] == asked + 4
    assert module.charge_once.delay(4).id  # on_publish_while_open="allow"
    with fleet.app.connection_for_write() as connection:
        assert connection.default_channel.client.llen("celery") == 2


def test_what_a_task_publishes_is_always_allowed(fleet: Fleet) -> None:
    fleet.worker()
    fleet.trip("publish_or_raise")
    line = chain(fleet.module.plain.s(1), fleet.module.publish_or_raise.s())()
    assert fleet.module.plain.AsyncResult(line.parent.id).get(timeout=20) == 1
    eventually(lambda: line.state == "RETRY")  # it was published, and waits


def test_of_calls_that_wait_with_the_same_arguments_one_is_enough(fleet: Fleet) -> None:
    fleet.shared_worker()
    fleet.trip("tick")
    first = fleet.module.tick.delay()
    eventually(lambda: first.state == "RETRY")
    others = [fleet.module.tick.delay() for _ in range(3)]
    assert [other.get(timeout=20) for other in others] == ["one waits already"] * 3
    different = fleet.module.tick.delay(7)
    assert first.get(timeout=20) == "ticked 0"
    assert different.get(timeout=20) == "ticked 7"
    assert fleet.calls == 2
    fleet.trip("tick")  # and the next outage is like the first
    again = fleet.module.tick.delay()
    eventually(lambda: again.state == "RETRY")
    assert again.get(timeout=20) == "ticked 0"


def test_a_call_that_expired_keeps_no_other_from_waiting(fleet: Fleet) -> None:
    fleet.shared_worker()
    breaker = fleet.trip("tick")
    breaker.force_open(ttl=5)
    first = fleet.module.tick.apply_async(expires=1)
    eventually(lambda: first.state == "REVOKED")
    second = fleet.module.tick.delay()
    assert second.get(timeout=20) == "ticked 0"


def test_a_call_that_gave_up_keeps_no_other_from_waiting(fleet: Fleet) -> None:
    fleet.shared_worker()
    breaker = fleet.module.tick_briefly.resilience.breaker
    breaker.force_open()
    first = fleet.module.tick_briefly.delay()
    eventually(lambda: first.state == "FAILURE")
    breaker.reset()
    fleet.trip("tick_briefly")  # for less than it waits
    assert fleet.module.tick_briefly.delay().get(timeout=20) == "ticked"


def test_what_beat_sends_in_an_outage_does_not_pile_up(fleet: Fleet, tmp_path: Path) -> None:
    """One call waits where they are coalesced; and where they expire, as many as are sent until they do."""
    worker = fleet.worker("-c", "2")
    ticking = fleet.trip("tick")
    ticking.force_open()
    fleet.trip("charge_once")
    schedule = str(tmp_path / "schedule")
    with Process.python(
        *("-m", "celery", "-A", "tests.celery.fleet", "beat", "-s", schedule, "-l", "INFO"),
        environ={"FLEET_URL": fleet.module.URL, "FLEET_BEAT": "1"},
    ) as beat:
        beat.wait_for("Sending due task tick", times=15)
        beat.wait_for("Sending due task expires", times=15)
        worker.wait_for("'one waits already'", times=14)
        worker.wait_for("Discarding revoked task")
        with fleet.app.connection_for_write() as connection:
            client = connection.default_channel.client
            # One, what is sent until it expires, and what is on its way.
            eventually(lambda: client.hlen("unacked") + client.llen("celery") <= 1 + 1 / 0.2 + 4)
        ticking.reset()
        worker.wait_for("'ticked 0'")
    assert fleet.world.hget("calls by", "up") is None


def test_a_task_that_gave_up_is_kept_and_brought_back(fleet: Fleet) -> None:
    fleet.worker()
    breaker = fleet.trip("bury_me")
    buried = [fleet.module.bury_me.apply_async((n,), headers={"x-trace": "abc"}, task_id=f"order-{n}") for n in (1, 2)]
    for each in buried:
        with pytest.raises(Exception, match="gave up after waiting 0 s in 0 deferrals"):
            each.get(timeout=20)
    with fleet.app.connection_for_write() as connection:
        client = connection.default_channel.client
        kept = json.loads(client.lindex("graveyard", 0))["headers"]
        assert client.llen("graveyard") == 2
        for n, _ in enumerate(replay(fleet.app, "graveyard")):  # who gives up again meanwhile comes next time
            eventually(lambda: client.llen("graveyard") == 2)
            assert n < 2
    assert kept["resilience_buried"]["queue"] == "celery"
    assert "gave up" in kept["resilience_buried"]["reason"]
    assert kept["x-trace"] == "abc"
    breaker.reset()
    brought_back = list(replay(fleet.app, "graveyard", limit=1))
    brought_back += replay(fleet.app, "graveyard")
    assert sorted(brought_back) == [
        ("tests.celery.fleet.bury_me", "order-1"),
        ("tests.celery.fleet.bury_me", "order-2"),
    ]
    eventually(lambda: all(fleet.app.AsyncResult(each.id).state == "SUCCESS" for each in buried))


def test_a_worker_that_holds_too_many_leaves_the_rest_in_the_broker(fleet: Fleet, gather: Gather) -> None:
    worker = fleet.worker("-c", "1", FLEET_PREFETCH="1")
    breaker = fleet.module.held.resilience.breaker
    breaker.force_open()
    orders = [fleet.module.held.delay(n) for n in range(40)]
    worker.wait_for("wait in this worker: the queue is paused until there are fewer")
    with fleet.app.connection_for_write() as connection:
        client = connection.default_channel.client
        most = max(client.hlen("unacked") for _ in range(100))
        assert most <= 5 + 3  # and what was on its way just then
    breaker.reset()
    assert sorted(gather(orders)) == list(range(40))
    assert fleet.world.hvals("runs") == ["1"] * 40


def test_a_call_costs_what_its_arguments_say_and_counts_for_whom_they_say(fleet: Fleet) -> None:
    fleet.worker()
    weighed = fleet.module.weighed
    assert weighed.delay("a", 6).get(timeout=20) == 6
    late = weighed.delay("a", 6)
    assert weighed.delay("b", 10).get(timeout=20) == 10
    eventually(lambda: late.state == "RETRY")
    with pytest.raises(Exception, match=r"cost=11 of .* should be a whole number from 1 to the limit, 10"):
        weighed.delay("c", 11).get(timeout=20)
