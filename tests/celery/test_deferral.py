"""A wait leaves a task as it was, and costs others nothing."""

from __future__ import annotations

import pickle
import time
from typing import Any

import pytest
from celery import Celery, chain, chord
from kombu.utils.json import dumps, loads

from ratelimit_core import CircuitBreakerError, RateLimitExceeded
from ratelimit_core.errors import BackendError
from resilient_tasks import MaxWaitExceeded, breaker_task
from resilient_tasks.execution.deferral import DeferralFailed
from resilient_tasks.queues import longest_countdown
from tests.celery.conftest import Fleet
from tests.servers import eventually


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent", "solo"])
def test_in_a_canvas_a_waiting_member_keeps_its_place(fleet: Fleet, pool: str) -> None:
    worker = fleet.worker("-P", pool, "-c", "2")
    fleet.trip("steady")
    module = fleet.module
    after = chain(module.plain.s(4), module.steady.s(), module.steady.s())()
    together = chord([module.steady.s(n) for n in range(4)], module.total.s())()
    assert together.get(timeout=20) == 6
    assert after.get(timeout=20) == 4
    assert fleet.world.get("totals") == "1"
    worker.wait_for("retry: Retry in", times=5)


def test_a_deferral_keeps_what_the_message_said(fleet: Fleet) -> None:
    fleet.worker("-Q", "billing,celery")
    fleet.trip("steady")
    result = fleet.module.describe.apply_async(
        (4111,), queue="billing", priority=3, expires=60, time_limit=9, soft_time_limit=8, argsrepr="(hidden)"
    )
    seen = result.get(timeout=20)
    assert seen["headers"]["resilience"]["deferrals"] == 1
    assert (seen["delivery_info"]["routing_key"], seen["delivery_info"]["priority"]) == ("billing", 3)
    assert (seen["timelimit"], seen["argsrepr"], seen["retries"]) == ([9, 8], "(hidden)", 0)
    assert seen["expires"]
    assert fleet.app.AsyncResult(seen["child"]).get(timeout=20) is None


def test_a_task_that_expires_before_the_probe_is_revoked(fleet: Fleet) -> None:
    fleet.shared_worker()
    fleet.trip("steady")
    late = fleet.module.steady.apply_async((1,), expires=0.2)
    eventually(lambda: late.state == "REVOKED")


@pytest.mark.parametrize("given", [{}, {"headers": {"x-trace": "abc"}}, {"countdown": 2}])
def test_a_failure_that_opens_the_breaker_goes_on_as_retry_was_told(fleet: Fleet, given: dict[str, Any]) -> None:
    fleet.shared_worker()
    began = time.monotonic()
    result = fleet.module.again.delay(1, other=given)
    assert result.get(timeout=20) == [2, given.get("headers", {}).get("x-trace"), 0]
    assert time.monotonic() - began >= given.get("countdown", 1.5)  # or else what `Retry-After` says


def test_one_that_chose_to_wait_long_does_not_hold_up_the_others(fleet: Fleet) -> None:
    fleet.worker()
    patient = fleet.module.again.delay(1, other={"countdown": 600})
    eventually(lambda: patient.state == "RETRY")
    assert fleet.module.again.resilience.resume.limiter.peek().retry_after < 60


def test_a_slot_that_an_outage_kept_from_use_is_not_paid_twice(fleet: Fleet) -> None:
    fleet.shared_worker()
    task = fleet.module.paid
    assert [task.delay(n).get(timeout=20) for n in range(2)] == [0, 1]
    third = task.delay(2)
    eventually(lambda: third.state == "RETRY")
    fleet.trip("paid")  # until after its slot
    assert third.get(timeout=20) == 2
    assert task.resilience.limiter.peek().remaining == 1


def test_who_may_not_wait_reserves_nothing(fleet: Fleet) -> None:
    fleet.worker()
    task = fleet.module.now_or_never
    results = [task.delay(n) for n in range(6)]
    eventually(lambda: all(result.ready() for result in results))
    assert sorted(result.state for result in results) == ["FAILURE"] * 4 + ["SUCCESS"] * 2
    assert task.resilience.limiter.peek().reset_after <= 3600


def test_a_soft_time_limit_is_a_failure_whatever_else_is_expected(fleet: Fleet) -> None:
    fleet.shared_worker()
    with pytest.raises(Exception, match="SoftTimeLimitExceeded"):
        fleet.module.hangs.delay().get(timeout=20)
    assert fleet.module.hangs.resilience.breaker.state == "open"


def test_a_task_whose_worker_is_killed_while_it_waits_runs_once(fleet: Fleet) -> None:
    worker = fleet.worker("-c", "1")
    fleet.trip("paid")
    waiting = fleet.module.paid.delay(1)
    worker.wait_for(f"paid[{waiting.id}] received", times=2)
    with fleet.app.connection_for_write() as connection:
        channel = connection.default_channel
        eventually(lambda: channel.client.hlen("unacked") == 1)  # the first message is acknowledged
    worker.kill()
    worker.popen.wait()
    fleet.redeliver()
    fleet.worker("-c", "1")
    assert waiting.get(timeout=20) == 1
    assert fleet.calls == 1


@pytest.mark.parametrize(
    "error",
    [
        MaxWaitExceeded("gave up after waiting 9 s"),
        DeferralFailed("could not be published"),
        CircuitBreakerError("payments", "open", 3.0),
        RateLimitExceeded("supplier", 2.0),
        BackendError("away"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_our_errors_come_back_from_every_result_backend_as_they_were(error: Exception) -> None:
    app = Celery("stores", broker="memory://", backend="cache+memory://", set_as_current=False)
    stored = loads(dumps(app.backend.prepare_exception(error, "json")))
    for back in (app.backend.exception_to_python(stored), pickle.loads(pickle.dumps(error))):
        assert type(back) is type(error)
        assert (repr(back), str(back)) == (repr(error), str(error))
    app.close()


def test_eagerly_a_task_goes_by_on_open_and_never_waits() -> None:
    app = Celery("eagerly", broker="memory://", backend="cache+memory://")
    app.conf.update(resilience_backend="memory://", task_always_eager=True, task_eager_propagates=True)

    @breaker_task(breaker="propagates", name="propagates", failure_threshold=1)
    def fails(order: int) -> int:
        raise ConnectionError("no answer")

    @breaker_task(breaker="propagates", name="falls-back", on_open=lambda order: f"later, {order}")
    def falls_back(order: int) -> int:
        return order

    with pytest.raises(ConnectionError):
        fails.delay(1)
    with pytest.raises(CircuitBreakerError):
        fails.delay(1)
    answer: Any = falls_back.delay(2).get()
    assert answer == "later, 2"
    app.close()


def test_of_several_brokers_the_first_says_how_long_a_wait_may_be() -> None:
    app: Any = Celery("brokers", set_as_current=False)
    app.conf.broker_url = ["amqp://one", "amqp://two"]
    assert longest_countdown(app) == 900
