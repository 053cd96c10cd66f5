"""What the decorators refuse, where they run, and what they pass on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest
from celery import Celery, Task

from ratelimit_core import CircuitBreakerError, ConfigurationError, RateLimitExceeded
from resilient_tasks import ResilientTask, breaker_task, rate_limited_task


@pytest.fixture
def app() -> Iterator[Celery]:
    app = Celery("decorated", broker="memory://", backend="cache+memory://")
    app.conf.resilience_backend = "memory://"
    yield app
    app.close()


def down(*_: Any) -> None:
    raise ConnectionError("no answer")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"failure_treshold": 3}, "unknown option 'failure_treshold'; did you mean 'failure_threshold'?"),
        ({"que": "billing"}, "unknown option 'que'; did you mean 'queue'?"),
        ({"failure_threshold": -1}, "failure_threshold=-1 should be a whole number from 1"),
        ({"rate": "10/w"}, "'10/w' is not a rate; write for example '100/h'"),
        ({"rate": "0/0s"}, "'0/0s' is not a rate"),
        ({"rate": "-1/m"}, "'-1/m' is not a rate"),
        ({"rate": "2/s", "cost": 3}, "cost=3 .* should be a whole number from 1 to the limit, 2"),
        ({"on_open": "defr"}, "on_open='defr' should be one of 'defer'.*; did you mean 'defer'"),
        ({"retry_for": ConnectionError}, "should be a tuple of exception classes"),
        ({"backoff": 5}, "backoff=5 should be a Backoff"),
        ({"max_wait": 0}, "max_wait=0 should be seconds"),
        ({"concurrency": 0}, "concurrency=0 should be a whole number"),
        ({"rate": "10/s", "rate_key": "{tennant}"}, "there is no argument 'tennant'; the arguments are {tenant}"),
        ({"rate": "10/s", "algorithm": "sliding_windw"}, "algorithm='sliding_windw'.*; did you mean 'sliding_window'"),
    ],
)
def test_nonsense_is_an_error_where_the_decorator_runs(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):

        @breaker_task(breaker="nonsense", **options)
        def never(tenant: str) -> None: ...


def test_one_name_with_two_configurations_shows_both() -> None:
    @breaker_task(name="twice-1", breaker="twice", failure_threshold=3)
    def first() -> None: ...

    with pytest.raises(ConfigurationError, match=r"(?s)defined twice.*failure_threshold=3.*failure_threshold=4"):

        @breaker_task(name="twice-2", breaker="twice", failure_threshold=4)
        def second() -> None: ...


def test_tasks_of_one_breaker_may_have_different_time_limits(app: Celery) -> None:
    timeouts = []
    for limit in (30, None, 600):

        @breaker_task(name=f"limit-{limit}", breaker="limited-time", failure_threshold=3, time_limit=limit)
        def task() -> None: ...

        timeouts.append(cast(Any, task).resilience.breaker.config.probe_timeout)
    assert timeouts == [30, 30, 30]


def test_a_limit_needs_a_rate_or_a_concurrency() -> None:
    with pytest.raises(ConfigurationError, match="rate_limited_task needs a rate"):
        rate_limited_task(queue="billing")


def test_every_option_of_shared_task_passes_through(app: Celery) -> None:
    @breaker_task(breaker="passing", bind=True, name="passing", ignore_result=True, acks_late=True, max_retries=7)
    def task(self: Any, x: int) -> tuple[str, int]:
        return self.name, x

    registered: Any = app.tasks["passing"]
    assert (registered.ignore_result, registered.acks_late, registered.max_retries) == (True, True, 7)
    assert isinstance(registered, ResilientTask)
    assert task(3) == ("passing", 3)


def test_without_arguments_the_breaker_has_the_name_of_the_task(app: Celery) -> None:
    @breaker_task
    def bare() -> int:
        return 1

    task: Any = bare
    assert task() == 1
    assert task.resilience.breaker.name == task.name


def test_a_base_class_of_the_user_keeps_its_call(app: Celery) -> None:
    class Counting(Task):  # type: ignore[type-arg] # as users write it
        abstract = True
        runs = 0

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            type(self).runs += 1
            return super().__call__(*args, **kwargs)

    @breaker_task(base=Counting, breaker="counted", name="counted", failure_threshold=1)
    def counted() -> int:
        return 1

    task: Any = counted
    assert task() == 1
    assert task.apply().get() == 1
    task.resilience.breaker.acquire().failure()
    with pytest.raises(CircuitBreakerError):
        task()
    assert task.runs == 2


def test_a_limit_reached_is_an_error_in_a_direct_call(app: Celery) -> None:
    @rate_limited_task(rate="2/h", name="limited-directly")
    def task() -> int:
        return 1

    assert [task(), task()] == [1, 1]
    with pytest.raises(RateLimitExceeded, match="'limited-directly' limited, retry in") as caught:
        task()
    assert 3590 < caught.value.retry_after <= 3600


@pytest.mark.parametrize("failing", [3, 5])
def test_eagerly_a_failure_is_one_clear_result(app: Celery, failing: int) -> None:
    @breaker_task(
        breaker="eager", name=f"eager-{failing}", failure_threshold=3, retry_for=(ConnectionError,), max_retries=1
    )
    def task() -> None:
        down()

    for _ in range(failing):
        result = task.apply()
        assert result.state == "FAILURE"
    assert "'eager' open" in repr(task.apply().result)


class WithOwner(Task):  # type: ignore[type-arg] # as Celery's own class at run time
    """What an app may have its tasks derive from; Celery does so for Django."""

    owner = "billing"


def test_it_derives_from_the_tasks_of_the_app() -> None:
    with Celery("of-its-own", task_cls=WithOwner, broker="memory://") as app:
        app.set_current()

        @breaker_task(breaker="owned", name="owned", owner="sales")
        def charge() -> None: ...

        task: Any = charge
        assert isinstance(task, WithOwner)
        assert isinstance(task, ResilientTask)
        assert task.owner == "sales"
