"""A routing table protects tasks that nobody touched; and what only the worker's own process can say is said."""

from __future__ import annotations

import importlib
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, cast

import pytest
from celery import Celery, Task, chain, chord, group
from celery.exceptions import TimeLimitExceeded

from ratelimit_core import CircuitBreaker, ConfigurationError
from ratelimit_core.circuit_breaker.breaker import cache_of
from resilient_tasks import ResilientTask, install
from tests import servers
from tests.servers import Process, eventually


class Routed:
    def __init__(self, module: Any, stack: ExitStack) -> None:
        self.module = module
        self.world = module.world
        self._stack = stack

    def worker(self, *arguments: str) -> Process:
        process = self._stack.enter_context(
            Process.python(
                *("-m", "celery", "-A", "tests.celery.routed", "worker", "-n", "r@test", "-l", "INFO"),
                *("--without-gossip", "--without-mingle", "-Q", "celery,mail", *(arguments or ("-c", "2"))),
                environ={"FLEET_URL": self.module.URL},
            )
        )
        process.wait_for("ready.")
        return process


@pytest.fixture(scope="session")  # a module is imported once
def module() -> Iterator[Any]:
    with servers.valkey() as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLEET_URL", url.rsplit("/", 1)[0])
        module: Any = importlib.import_module("tests.celery.routed")
        yield module
        module.app.backend.result_consumer.stop()
        module.app.close()
        module.world.close()


@pytest.fixture
def routed(module: Any) -> Iterator[Routed]:
    module.app.set_current()
    module.app.finalize()
    module.world.flushall()
    for task in module.app.tasks.values():
        protection = getattr(task, "resilience", None)
        if protection is not None and protection.breaker is not None and not protection._of_arguments:
            cache_of(protection.breaker).forget()
    with ExitStack() as stack:
        yield Routed(module, stack)


def test_tasks_are_protected_by_their_names_and_the_others_left_alone(routed: Routed) -> None:
    tasks: Any = routed.module.app.tasks
    for name, breaker in (("payments.charge", "routed-payments"), ("payments.refund", "routed-payments")):
        assert isinstance(tasks[name], ResilientTask)
        assert tasks[name].resilience.breaker.name == breaker
    assert tasks["other.plain"].resilience is None
    assert not isinstance(tasks["celery.chord"], ResilientTask)
    assert tasks["slow.report"].resilience.breaker.config.probe_timeout == 1


@pytest.mark.parametrize("task", ["charge", "refund"])
def test_an_outage_spends_no_retries_of_untouched_tasks(routed: Routed, task: str) -> None:
    routed.worker()
    routed.world.set("down", 1)
    orders = [getattr(routed.module, task).delay(n) for n in range(10)]
    eventually(lambda: CircuitBreaker("routed-payments").state == "open")
    routed.world.delete("down")
    assert sorted(order.get(timeout=30) for order in orders) == list(range(10))
    if task == "charge":
        assert int(routed.world.get("started")) >= 10  # the user's own hook ran


def test_a_queue_is_protected_whatever_comes_through_it(routed: Routed) -> None:
    routed.worker("-c", "1")  # another process may go on for cache_ttl after the breaker opened
    routed.world.set("down", 1)
    first, other = routed.module.send.delay(1), routed.module.plain.apply_async((2,), queue="mail")
    with pytest.raises(ConnectionError):
        first.get(timeout=20)
    other.get(timeout=20, propagate=False)
    with pytest.raises(Exception, match="'routed-mail' open"):
        routed.module.plain.apply_async((3,), queue="mail").get(timeout=20)
    assert routed.module.plain.delay(4).get(timeout=20) == 4


def test_a_breaker_for_each_tenant(routed: Routed) -> None:
    routed.worker()
    sync = routed.module.sync
    with pytest.raises(ConnectionError):
        sync.delay("bad").get(timeout=20)
    with pytest.raises(Exception, match="'tenant:bad' open"):
        sync.delay("bad").get(timeout=20)
    assert sync.delay(tenant="good").get(timeout=20) == "good"


def test_a_template_knows_the_arguments_as_who_calls_does() -> None:
    app = new_app(resilience={"bound.*": {"breaker": "bound:{tenant}", "rate": "1/s", "rate_key": "{full}"}})

    @app.task(bind=True, name="bound.sync")
    def bound(self: Any, tenant: str, full: bool = False) -> None: ...

    class Sync(Task):  # type: ignore[type-arg] # as users write it
        name = "bound.of_class"

        def run(self, tenant: str, full: bool = False) -> None: ...

    install(app)
    for task in (bound, app.register_task(Sync())):
        protection = cast(Any, app.tasks[task.name]).resilience
        for args in (("acme",), ("acme", True)):
            subject = protection.subject(args, {})
            assert subject.breaker.name == "bound:acme"
            assert subject.key == f"bound:acme:{len(args) == 2}"


def test_a_hard_time_limit_is_a_failure_and_frees_its_place(routed: Routed) -> None:
    routed.worker("-c", "1")
    with pytest.raises(TimeLimitExceeded):
        routed.module.report.delay(30).get(timeout=20)
    breaker = CircuitBreaker("routed-slow")
    eventually(lambda: breaker.state == "open")
    breaker.reset()
    assert routed.module.report.delay(0.01).get(timeout=20) == 0.01  # the one place is free


def test_a_killed_child_says_nothing_and_frees_its_place(routed: Routed) -> None:
    worker = routed.worker("-c", "1")
    lost = routed.module.killed.delay()
    eventually(lambda: routed.world.get("pid"))
    os.kill(int(routed.world.get("pid")), signal.SIGKILL)
    worker.wait_for("WorkerLostError")
    lost.get(timeout=20, propagate=False)
    limiter: Any = routed.module.report.resilience.limiter
    eventually(lambda: limiter.peek().remaining == 1)
    assert CircuitBreaker("routed-slow").get_status()["failure_count"] == 0


def test_a_terminated_task_frees_its_place(routed: Routed) -> None:
    routed.worker("-c", "1")
    running = routed.module.killed.delay()
    eventually(lambda: routed.world.get("pid"))
    running.revoke(terminate=True, signal="SIGKILL")
    limiter: Any = routed.module.report.resilience.limiter
    eventually(lambda: limiter.peek().remaining == 1)
    assert CircuitBreaker("routed-slow").get_status()["failure_count"] == 0


def test_canvas_goes_on_through_an_outage(routed: Routed) -> None:
    routed.worker()
    module = routed.module
    routed.world.set("down", 1)
    whole = chord([module.charge.s(n) for n in range(5)], module.total.s())()
    line = chain(module.charge.si(7), module.plain.s(), module.charge.s())()
    together = group(module.refund.s(n) for n in range(3))()
    eventually(lambda: CircuitBreaker("routed-payments").state == "open")
    routed.world.delete("down")
    assert whole.get(timeout=30) == 10
    assert line.get(timeout=30) == 7
    assert together.get(timeout=30) == [0, 1, 2]
    assert routed.world.get("totals") == "1"


def new_app(**conf: Any) -> Celery:
    app = Celery("new", broker="memory://", set_as_current=False)
    app.conf.update(conf)
    return app


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"a.*": {"braker": "x"}}, r"resilience\['a\.\*'\]: unknown option 'braker'; did you mean 'breaker'\?"),
        ({"a.*": {"rate": "10/w"}}, r"resilience\['a\.\*'\], for the task a\.b: .*'10/w' is not a rate"),
        (
            {"a.*": {"rate": "1/s", "rate_key": "{tennant}"}},
            "there is no argument 'tennant'; the arguments are {tenant}",
        ),
        ({"a.*": "payments"}, "should be a dictionary of options"),
        ({"a.*": {"breaker": "x:{tenant}", "on_open": "pause"}}, "can't be paused for one of many breakers"),
        ({3: {}}, "should be a task's name, a pattern or 'queue:NAME'"),
        (["a.*"], "should be a dictionary"),
    ],
)
def test_a_wrong_table_is_an_error_before_a_worker_starts(table: Any, message: str) -> None:
    app = new_app(resilience=table)
    install(app)

    @app.task(name="a.b", shared=False)
    def task(tenant: str) -> None: ...

    with pytest.raises(ConfigurationError, match=message):
        app.finalize()
    app.close()


def test_a_setting_of_the_app_that_does_not_exist_is_an_error() -> None:
    app = new_app(resilience_bakend="redis://")
    with pytest.raises(ConfigurationError, match="did you mean 'resilience_backend'"):
        app.finalize()
    app.close()


def test_installing_too_late_is_refused_with_a_reason() -> None:
    app = new_app()

    @app.task(name="late.task", shared=False)
    def task() -> None: ...

    app.finalize()
    app.tasks["late.task"].__trace__ = lambda: None
    with pytest.raises(ConfigurationError, match="came too late: a worker already runs"):
        install(app)
    app.close()


def test_installed_twice_or_after_the_tasks_it_is_all_the_same() -> None:
    app = new_app(resilience={"a.*": {"breaker": "all-the-same"}})

    @app.task(name="a.b", shared=False)
    def before() -> None: ...

    app.finalize()
    install(app)
    install(app)

    @app.task(name="a.c", shared=False)
    def after() -> None: ...

    for name in ("a.b", "a.c"):
        task: Any = app.tasks[name]
        assert task.resilience.breaker.name == "all-the-same"
    app.close()


def test_a_pattern_that_matches_nothing_is_said_when_the_worker_starts() -> None:
    from resilient_tasks.worker.warnings import advise

    app = new_app(resilience={"biling.*": {"breaker": "x"}, "queue:celery": {"breaker": "y"}})
    install(app)

    @app.task(name="billing.charge", shared=False)
    def charge() -> None: ...

    app.finalize()
    said = [advice for advice in advise(app) if advice.startswith("resilience[")]
    assert said == ["resilience['biling.*'] matches no task or queue of this worker: check its spelling"]
    app.close()


def test_pausing_a_queue_that_others_share_is_said_when_the_worker_starts() -> None:
    from resilient_tasks.worker.warnings import advise

    app = new_app(
        resilience={"a.*": {"breaker": "sharing", "on_open": "pause"}}, task_routes={"[ab].*": {"queue": "shared"}}
    )
    install(app)
    for name in ("a.pauses", "b.does_not"):

        @app.task(name=name, acks_late=True, shared=False)
        def task() -> None: ...

    app.finalize()
    (advice,) = [advice for advice in advise(app) if "'shared'" in advice]
    assert advice.startswith("queue 'shared' is paused while sharing is open, which also stops b.does_not: ")
    assert "give tasks with on_open='pause' their own queue, or write on_open='defer'" in advice
    app.close()


@pytest.mark.parametrize("task", ["shop.charge", "other.refund"], ids=["by the table", "decorated"])
def test_under_django_a_protected_task_waits_for_the_commit(task: str) -> None:
    with Process.python("-m", "tests.celery.shop") as shop:
        shop.wait_for(f"{task} within 0")
        shop.wait_for(f"{task} committed 1")
        shop.wait_for(f"{task} rolled back 1")
