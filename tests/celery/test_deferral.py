"""A wait leaves a task as it was, and costs others nothing."""

from __future__ import annotations

import pickle
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from celery import Celery, chain, chord
from celery.canvas import Signature
from celery.exceptions import Ignore, Retry
from kombu.utils.json import dumps, loads

from ratelimit_core import CircuitBreakerError, RateLimitExceeded
from ratelimit_core.errors import BackendError
from resilient_tasks import MaxWaitExceeded, breaker_task, rate_limited_task
from resilient_tasks.execution import deferral
from resilient_tasks.execution.deferral import DeferralFailed
from resilient_tasks.execution.wait_header import HEADER, SLOT, Waiting
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


# In process: a message as a worker has it, and what is published of it


@pytest.fixture
def app() -> Iterator[Celery]:
    app = Celery("delivers", broker="memory://", backend="cache+memory://")
    app.conf.resilience_backend = "memory://"
    yield app
    app.close()


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[Signature[Any]]:
    messages: list[Signature[Any]] = []
    monkeypatch.setattr(deferral, "publish", messages.append)
    return messages


def deliver(task: Any, *args: Any, **request: Any) -> Any:
    """Run the task as a worker does for this message."""
    message = {
        "id": str(uuid.uuid4()),
        "args": args,
        "kwargs": {},
        "retries": 0,
        "called_directly": False,
        "is_eager": False,
        "hostname": "test",
        "headers": {},
        "delivery_info": {"exchange": "", "routing_key": "celery"},
    }
    task.push_request(**{**message, **request})
    try:
        return task(*args)
    finally:
        task.pop_request()


def deferred(task: Any, *args: Any, **request: Any) -> Any:
    """How the task leaves that has to wait."""
    with pytest.raises(Retry) as caught:
        deliver(task, *args, **request)
    return caught.value


def seconds_from_now(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def test_where_waiting_tasks_come_back_too_late_for_slots_none_are_reserved(
    app: Celery, published: list[Signature[Any]]
) -> None:
    @rate_limited_task(rate="20/h", name="overloaded")
    def task() -> int:
        return 1

    waited = Waiting(1, 1.0).header()
    for _ in range(10):
        assert deliver(task, headers={HEADER: waited}, eta=seconds_from_now(-600)) == 1
    for _ in range(10):
        assert deliver(task) == 1  # in time, but it has not waited
    assert deferred(task).when > 60
    assert published[0].options["headers"][HEADER]["slot"] is None


def test_a_wait_for_a_window_ends_after_it_and_not_all_at_once(app: Celery, published: list[Signature[Any]]) -> None:
    @rate_limited_task(rate="1/m", algorithm="fixed_window", name="windowed")
    def task() -> int:
        return 1

    assert deliver(task) == 1
    peek = cast(Any, task).resilience.limiter.peek
    before = peek().retry_after
    waits = [deferred(task).when for _ in range(5)]
    assert peek().retry_after <= min(waits) < max(waits) <= before + 0.1


def opens(self: Any, order: int) -> None:
    raise self.retry(args=(order + 1,), exc=ConnectionError("no answer"))


def test_new_arguments_are_not_shown_as_the_old_ones(app: Celery, published: list[Signature[Any]]) -> None:
    task = breaker_task(breaker="opens", name="opens", bind=True, failure_threshold=1)(opens)
    deferred(task, 1, argsrepr="(hidden)")
    assert published[0].args == (2,)
    assert published[0].options.get("argsrepr") != "(hidden)"


def test_a_retry_that_the_broker_can_not_hold_for_so_long_waits_in_parts(app: Celery) -> None:
    @breaker_task(breaker="patient", name="patient", bind=True)
    def task(self: Any) -> None:
        raise self.retry(countdown=5000)

    left = deferred(task)
    assert left.when == longest_countdown(app) == 1800
    assert abs(left.sig.options["headers"][HEADER]["until"] - time.time() - 5000) < 60


def test_a_task_may_wait_as_long_as_it_is_good_for(app: Celery, published: list[Signature[Any]]) -> None:
    @breaker_task(breaker="expires", name="expires", failure_threshold=1)
    def task() -> None: ...

    cast(Any, task).resilience.breaker.acquire().failure()
    assert 0 < deferred(task, expires=seconds_from_now(0.9)).when < 1
    with pytest.raises(Ignore):
        deliver(task, expires=seconds_from_now(-0.1))
    assert len(published) == 1


def test_what_rabbitmq_delayed_goes_back_to_its_queue_and_all_else_by_its_exchange(
    app: Celery, published: list[Signature[Any]]
) -> None:
    @breaker_task(breaker="routed", name="routed", failure_threshold=1)
    def task() -> None: ...

    cast(Any, task).resilience.breaker.acquire().failure()
    for delivery in (
        {"exchange": "celery_delayed_27", "routing_key": "0." * 28 + "celery"},
        {"exchange": "celery", "routing_key": "celery"},
    ):
        deferred(task, delivery_info=delivery)
    assert [message.options.get("queue") for message in published] == ["celery", None]


@pytest.mark.parametrize(
    ("options", "seconds"),
    [
        ({"rate": "2/s"}, 0.5),
        ({"rate": "2/s", "rate_key": "{tenant}"}, 0.01),
        ({"rate": "2/s", "resume_rate": "5/s"}, 0.2),
    ],
    ids=["of the task", "of each tenant", "its own"],
)
def test_tasks_resume_at_their_rate_or_at_a_hundred_a_second(
    app: Celery, options: dict[str, Any], seconds: float
) -> None:
    @breaker_task(breaker=f"resumes-{seconds}", name=f"resumes-{seconds}", **options)
    def task(tenant: str) -> None: ...

    assert cast(Any, task).resilience.resume.between_turns == seconds


def test_one_whose_slot_is_lost_reserves_again(app: Celery, published: list[Signature[Any]]) -> None:
    @rate_limited_task(rate="1/m", name="lost")
    def task() -> int:
        return 1

    assert deliver(task) == 1
    lost = Waiting(1, 60.0, (0, "lost" + SLOT, 1)).header()
    own = deferred(task, headers={HEADER: lost}).when
    assert deferred(task).when - own > 50, "behind it"
