"""Real workers live through a real outage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ratelimit_core import CircuitBreaker
from tests.celery.conftest import Fleet
from tests.servers import eventually

Gather = Callable[..., list[Any]]


def probes(breaker: CircuitBreaker) -> int:
    """How many there were: each time it was half-open there is a place for one."""
    return sum(entry["event"] == "half_open" for entry in breaker.history())


def test_two_workers_share_one_breaker_and_an_outage_spends_no_retries(fleet: Fleet, gather: Gather) -> None:
    fleet.worker("-c", "2")
    fleet.worker("-c", "2")
    fleet.outage()
    orders = [fleet.module.charge.delay(n) for n in range(30)]
    # max_retries is 1, and this is an outage of many probes: each failed probe is a call.
    threshold, running, within_ttl = 3, 4, 4
    breaker = fleet.module.charge.resilience.breaker
    eventually(lambda: probes(breaker) >= 6)
    calls = fleet.calls
    assert threshold + 5 <= calls <= threshold + running + within_ttl + probes(breaker)
    fleet.recovery()
    results = gather(orders)
    assert sorted(result["order"] for result in results) == list(range(30))
    assert all(result["runs"] == 1 for result in results)
    assert max(result["retries"] for result in results) <= 1
    assert fleet.module.charge.resilience.breaker.state == "closed"


@pytest.mark.parametrize("pool", ["threads", "gevent", "solo"])
def test_the_same_in_every_pool(fleet: Fleet, gather: Gather, pool: str) -> None:
    for _ in range(2):
        fleet.worker("-c", "2", "-P", pool)
    fleet.outage()
    orders = [fleet.module.charge_patiently.delay(n) for n in range(20)]
    breaker = fleet.module.charge_patiently.resilience.breaker
    eventually(lambda: probes(breaker) >= 3)
    assert fleet.calls <= 3 + 4 + 2 + probes(breaker)  # here a worker is one process
    fleet.recovery()
    results = gather(orders)
    assert sorted(result["order"] for result in results) == list(range(20))
    assert all(result["runs"] == 1 for result in results)


@pytest.mark.parametrize("task", ["charge_auto", "charge_by_hand"])
def test_a_task_that_retries_by_itself_trips_the_breaker_like_any_other(
    fleet: Fleet, gather: Gather, task: str
) -> None:
    worker = fleet.worker()
    fleet.outage()
    orders = [getattr(fleet.module, task).delay(n) for n in range(10)]
    worker.wait_for("breaker 'payments' opened after 3 failures")
    worker.wait_for("retry: Retry in", times=12)
    calls = fleet.calls
    breaker = getattr(fleet.module, task).resilience.breaker
    assert calls <= 3 + 2 + 2 + probes(breaker)  # threshold, running, within the verdict's life, probes
    fleet.recovery()
    assert sorted(gather(orders)) == list(range(10))


def test_without_retry_for_a_failure_is_a_failure_and_is_counted(fleet: Fleet) -> None:
    fleet.worker("-c", "1")  # another process may go on for cache_ttl after the breaker opened
    fleet.outage()
    for n in range(3):
        with pytest.raises(ConnectionError):
            fleet.module.charge_once.delay(n).get(timeout=20)
    waiting = fleet.module.charge_once.delay(3)
    eventually(lambda: waiting.state == "RETRY")
    assert fleet.calls == 3


def test_what_to_do_while_open(fleet: Fleet) -> None:
    fleet.shared_worker()
    fleet.trip("charge_once")
    module = fleet.module
    with pytest.raises(Exception, match="'ledger' open, retry in") as caught:
        module.charge_or_fail.delay(1).get(timeout=20)
    assert type(caught.value).__name__ == "CircuitBreakerError"
    assert module.charge_or_skip.delay(1).get(timeout=20) == "skipped"
    assert module.charge_or_else.delay(1).get(timeout=20) == "later, 1"
    assert fleet.calls == 0


def test_a_task_that_would_wait_too_long_fails_and_says_why(fleet: Fleet) -> None:
    fleet.shared_worker()
    fleet.trip("charge_soon_or_never")
    with pytest.raises(Exception, match=r"gave up after waiting .*max_wait=1 s.*'impatient' open"):
        fleet.module.charge_soon_or_never.delay(1).get(timeout=20)


def test_a_deferred_task_is_the_same_task(fleet: Fleet) -> None:
    fleet.shared_worker()
    fleet.trip("charge")
    module = fleet.module
    link = module.plain.si(99)
    link.freeze()
    result = module.charge.apply_async((7,), headers={"x-trace": "abc"}, link=link, task_id="the-one")
    assert result.get(timeout=20) == {"order": 7, "retries": 0, "runs": 1}
    meta = result.backend.get_task_meta("the-one")
    assert meta["retries"] == 0
    assert module.plain.AsyncResult(link.id).get(timeout=20) == 99


def test_called_directly_or_eagerly_it_is_guarded_and_raises(fleet: Fleet) -> None:
    task = fleet.module.charge_once
    fleet.outage()
    for n in range(3):
        with pytest.raises(ConnectionError):
            task(n)
    with pytest.raises(Exception, match="'ledger' open"):
        task(3)
    eager = task.apply((4,))
    assert eager.state == "FAILURE"
    assert "'ledger' open" in repr(eager.result)
    assert fleet.calls == 3


def test_the_switch_turns_everything_off(fleet: Fleet) -> None:
    fleet.worker("-c", "2", RESILIENCE_ENABLED="0")
    fleet.trip("charge")
    assert fleet.module.charge.delay(1).get(timeout=20)["order"] == 1


def test_an_unreachable_state_store_is_reported_once_and_loses_no_task(fleet: Fleet, gather: Gather) -> None:
    worker = fleet.worker("-c", "1", FLEET_STATE="redis://127.0.0.1:1/0")
    orders = [fleet.module.charge.delay(n) for n in range(5)]
    assert [result["order"] for result in gather(orders)] == [0, 1, 2, 3, 4]
    fleet.outage()
    later = [fleet.module.charge.delay(n) for n in range(5, 10)]
    worker.wait_for("breaker 'payments' opened after 3 failures; next probe in 0.5 s (in this process only")
    fleet.recovery()
    assert sorted(result["order"] for result in gather(later)) == [5, 6, 7, 8, 9]
    assert sum("the shared store is unavailable" in line for line in worker.lines) == 1


NOBODY = "redis://127.0.0.1:1/0"


def test_early_acknowledged_and_not_published_for_later_it_fails_and_says_so(fleet: Fleet) -> None:
    fleet.worker("-c", "1", FLEET_WRITE=NOBODY)
    fleet.trip("charge_once")
    with pytest.raises(Exception, match=r"could not be published for later: .*'ledger' open") as caught:
        fleet.module.charge_early.delay(1).get(timeout=30)
    assert type(caught.value).__name__ == "DeferralFailed"


def test_late_acknowledged_and_not_published_for_later_it_is_delivered_again(fleet: Fleet) -> None:
    cut_off = fleet.worker("-c", "1", FLEET_WRITE=NOBODY)
    breaker = fleet.trip("charge_late")
    result = fleet.module.charge_late.delay(1)
    cut_off.wait_for(f"charge_late[{result.id}] received", times=2)
    cut_off.kill()
    cut_off.popen.wait()
    breaker.reset()
    fleet.redeliver()
    fleet.worker("-c", "1")
    assert result.get(timeout=30) == 1
    assert fleet.calls == 1
