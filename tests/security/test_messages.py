"""Messages that somebody has forged: the worker lives, each task ends or waits, and no limit lets more through."""

from __future__ import annotations

import random
from functools import partial
from typing import Any

import pytest
from celery import Celery
from hypothesis import given
from hypothesis import strategies as st

from ratelimit_core import Backoff, Limiter
from ratelimit_core._util.ids import new_id
from ratelimit_core.backends import Backend
from ratelimit_core.limiter.batch import hit_check
from ratelimit_core.policies import ALLOWED
from resilient_tasks.execution.dead_letters import replay
from resilient_tasks.execution.run import PROBE, Run, lease_id_of
from resilient_tasks.execution.wait_header import HEADER, SLOT, Waiting
from resilient_tasks.options import Options
from tests.celery.conftest import Fleet, app_settings
from tests.celery.test_waiting import JSON
from tests.security.names import HOSTILE
from tests.servers import eventually

__all__ = ["app_settings"]  # which the workers' stores are found by

DEEP: Any = {}
for _ in range(50):  # deeper still, Celery's own prefork pool can't pass a header on
    DEEP = {"slot": [DEEP]}
NUMBERS = [-1, 0, 1e400, -1e400, float("nan"), 10**400, -(10**400), 2**63, True, None, "1", [1], {"a": 1}, "\ud800"]
SLOTS = [
    *([which, f"x{SLOT}", 1] for which in (0, 1, 99, -1, 10**30, "0")),
    *([0, f"x{SLOT}", cost] for cost in (0, 10**30, 1.5)),
    *(
        [0, lease_id, 1]
        for lease_id in ("", "x", "x" * 10**5, f"\n{SLOT}", f"\ud800{SLOT}", f"x{SLOT}!1", f"x{SLOT}/2")
    ),
    "slot",
    {"0": 0, "1": "x", "2": 1},
    [0] * 1000,
]
FORGED: list[Any] = [
    *({"deferrals": number, "waited": number} for number in NUMBERS[::2]),
    *({"until": number} for number in NUMBERS),
    *({"deferrals": 1, "slot": slot} for slot in SLOTS),
    *NUMBERS,
    DEEP,
    {"deferrals": 1, "version": 99, "later": {"more": []}},
]


def send(fleet: Fleet, task: str, *args: Any, queue: Any = "celery", **headers: Any) -> str:
    """A message as whoever can write to the broker sends it; its id."""
    name = f"tests.celery.fleet.{task}"
    with fleet.app.connection_for_write() as connection, fleet.app.amqp.Producer(connection) as producer:
        message = fleet.app.amqp.as_task_v2(f"forged-{random.getrandbits(64):x}", name, args=args)
        producer.publish(
            message.body,
            exchange=queue,
            routing_key=queue,
            declare=[fleet.app.amqp.queues[queue]],
            headers={**message.headers, **headers},
            correlation_id=message.headers["id"],
            serializer="json",
        )
    return str(message.headers["id"])


@given(st.one_of(JSON, st.sampled_from(FORGED)))
def test_nonsense_counts_as_nothing(forged: Any) -> None:
    for headers in ({HEADER: forged}, forged):
        waiting = Waiting.of(headers)
        assert Waiting.of({HEADER: waiting.header()}) == waiting
        assert waiting.slot is None or waiting.slot[1].endswith(SLOT)
        assert waiting.too_early <= 31 * 86400


@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.whole)])
def test_no_header_loses_a_task_ends_a_worker_or_gets_past_a_limit(fleet: Fleet, step: int) -> None:
    forgeries = FORGED[::step]
    worker = fleet.worker("-c", "2")
    sent = [send(fleet, "limited", n, **{HEADER: forged}) for n, forged in enumerate(forgeries)]
    sent += [send(fleet, "limited", n, headers={HEADER: forged}) for n, forged in enumerate(forgeries[::7])]
    sent += [send(fleet, "limited", n, headers=forged) for n, forged in enumerate(NUMBERS[:: 2 * step])]
    sent += [send(fleet, "limited", n, **{PROBE: forged}) for n, forged in enumerate(NUMBERS[:: 2 * step])]
    results = [fleet.app.AsyncResult(task_id) for task_id in sent]
    waits = len([1 for forged in forgeries if Waiting.of({HEADER: forged}).too_early])
    eventually(lambda: sum(result.ready() for result in results) >= len(sent) - 2 * waits, timeout=60)
    # What is not done says that it waits, until a time that was forged too.
    assert {result.state for result in results} <= {"SUCCESS", "RETRY", "FAILURE"}
    ran = sorted(map(float, fleet.world.lrange("limited", 0, -1)))
    assert len(ran) == sum(result.state == "SUCCESS" for result in results)
    assert len(ran) >= len(forgeries) - waits
    assert all(later - earlier > 0.98 for earlier, later in zip(ran, ran[10:], strict=False)), "10 in any second"
    assert worker.popen.poll() is None
    assert fleet.module.plain.delay(7).get(timeout=20) == 7


def waits(fleet: Fleet, task_id: str) -> bool:
    return str(fleet.app.AsyncResult(task_id).state) == "RETRY"


def test_who_knows_the_lease_id_of_a_hit_that_counts_gets_no_more_for_it(fleet: Fleet) -> None:
    worker = fleet.worker("-P", "solo")
    first = [fleet.module.per_tenant.delay(n, tenant="a") for n in range(2)]
    assert [result.get(timeout=20) for result in first] == ["a 0", "a 1"]
    lease_ids = [lease_id_of(str(result.id), "w1@test", worker.popen.pid) for result in first]
    for lease_id in lease_ids:
        for named in (lease_id, f"{lease_id}!1", lease_id + SLOT):
            forged = send(fleet, "per_tenant", 9, "a", **{HEADER: {"deferrals": 1, "slot": [0, named, 1]}})
            eventually(partial(waits, fleet, forged))


def test_the_lease_ids_of_others_are_none_of_a_message(store: Backend) -> None:
    """In every store: what a limiter's own lease ids name, no header can."""
    limiter = Limiter("2/h", key="x", concurrency=2, backend=store)
    mine = [lease_id_of("id", "host", 1), new_id()]
    for lease_id in mine:
        calls = hit_check(limiter, "x", 1, lease_id).calls
        assert all(verdict[ALLOWED] for verdict in store.apply(calls))
    for lease_id in mine:
        for named in (lease_id, f"{lease_id}!1", f"{lease_id}/2", lease_id + SLOT, f"{lease_id}{SLOT}!1"):
            slot = Waiting.of({HEADER: {"slot": [0, named, 1]}}).decision()
            assert slot is None or not limiter.redeem(slot)
    assert limiter.peek().remaining == 0


def test_a_probes_place_is_handed_over_by_the_worker_alone(fleet: Fleet) -> None:
    fleet.worker("-c", "1")
    breaker = fleet.trip("charge")
    eventually(lambda: breaker.peek(refresh=True)[1] <= 0)
    permit = breaker.acquire()
    assert permit.probe
    forged = [
        send(fleet, "charge", 1, **{PROBE: permit.lease_id}),
        send(fleet, "charge", 2, headers={PROBE: permit.lease_id}),
    ]
    eventually(lambda: all(fleet.app.AsyncResult(task_id).state == "RETRY" for task_id in forged))
    assert fleet.calls == 0
    permit.success()
    eventually(lambda: all(fleet.app.AsyncResult(task_id).ready() for task_id in forged))
    assert fleet.calls == 2


def test_a_count_of_deliveries_that_is_none_gives_no_task_up(fleet: Fleet) -> None:
    fleet.worker("-c", "2", "-Q", "celery,settling")
    breaker = fleet.trip("settle")
    breaker.force_open(ttl=2.5)
    sent = [send(fleet, "settle", n, **{"x-delivery-count": forged}) for n, forged in enumerate(["many", None, -5])]
    eventually(lambda: all(fleet.app.AsyncResult(task_id).ready() for task_id in sent), timeout=30)
    assert fleet.world.hgetall("runs") == {"0": "1", "1": "1", "2": "1"}


def test_any_number_of_retries_is_one_wait(fleet: Fleet) -> None:
    task = fleet.module.charge_lasting
    task.push_request(id="x", retries=10**15, args=(1,), kwargs={}, called_directly=False)
    try:
        run = Run(task, task.resilience, (1,), {})
        jitters: list[Any] = ["none", "full", "equal"]
        for jitter in jitters:
            run.options = Options(backoff=Backoff(base=1, max=60, jitter=jitter))
            assert 0 <= run.backoff() <= 60
    finally:
        task.pop_request()


def test_who_waits_is_not_told_by_arguments_that_are_hidden(fleet: Fleet) -> None:
    worker = fleet.worker("-c", "1")
    hidden = {"argsrepr": "(...)", "kwargsrepr": "{...}"}
    waiting = [fleet.module.per_tenant.apply_async((n, "s3cr3t"), **hidden) for n in range(4)]
    eventually(lambda: sum(result.state == "RETRY" for result in waiting) == 2)
    worker.wait_for("RateLimitExceeded('tests.celery.fleet.per_tenant' limited")
    refused = next(result for result in waiting if result.state == "RETRY")
    assert not [line for line in worker.lines if "s3cr3t" in line and "succeeded" not in line]
    assert "s3cr3t" not in repr(refused.info)


HOMES = [5, "", None, {}, [], {"queue": 5}, {"queue": None}, {"queue": {}}, {"queue": ""}, "celery"]


def test_what_a_dead_letter_says_of_its_home_is_not_believed(fleet: Fleet) -> None:
    app: Celery = fleet.app
    sent = [send(fleet, "plain", n, queue="graveyard", resilience_buried=home) for n, home in enumerate(HOMES)]
    assert sorted(task_id for _, task_id in replay(app, "graveyard")) == sorted(sent)
    fleet.worker("-c", "1")
    assert [app.AsyncResult(task_id).get(timeout=20) for task_id in sent] == list(range(len(HOMES)))


COMMANDS = ["breaker_open", "breaker_close", "breaker_reset"]
WRONG: list[dict[str, Any]] = [
    {},
    {"name": ""},
    {"name": None},
    {"name": 7},
    {"name": ["payments"]},
    {"name": "{tenant}"},
    {"name": "payments", "reason": {"a": 1}},
    {"name": "payments", "author": 7},
    {"name": "payments", "unknown": 1},
]
SPANS = [-1, 0, float("nan"), float("inf"), 1e300, "1", True, [1]]


def test_a_control_command_with_nonsense_does_nothing_and_ends_no_worker(fleet: Fleet) -> None:
    worker = fleet.worker("-c", "1")
    control = fleet.app.control
    asked = [(command, arguments) for command in COMMANDS for arguments in WRONG]
    asked += [("breaker_open", {"name": "payments", "reason": str(n), "ttl": ttl}) for n, ttl in enumerate(SPANS)]
    eventually(lambda: control.ping(timeout=1))
    for command, arguments in asked:
        (answer,) = control.broadcast(command, arguments=arguments, reply=True, timeout=10, limit=1)
        assert "error" in next(iter(answer.values())), (command, arguments, answer)
    assert fleet.module.charge.resilience.breaker.get_status()["mode"] == "automatic"
    for name in [name for name in HOSTILE.values() if len(name) < 300 and name.isprintable() and "{" not in name]:
        (answer,) = control.broadcast("breaker_open", arguments={"name": name}, reply=True, timeout=10, limit=1)
        assert answer == {"w1@test": {"ok": f"{name} opened"}}
    (answer,) = control.broadcast("breakers", reply=True, timeout=10, limit=1)
    assert worker.popen.poll() is None
    assert fleet.module.plain.delay(7).get(timeout=20) == 7
