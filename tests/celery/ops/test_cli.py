"""Seen and steered where people are: celery inspect, celery control, celery resilience, signals, Flower, Sentry."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
import requests
from celery.events.state import Task as TaskEvents

from resilient_tasks import flower as columns
from tests.celery.conftest import Fleet
from tests.servers import ROOT, Process, eventually


def celery(fleet: Fleet, *arguments: str) -> str:
    """What the ``celery`` command says."""
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "tests.celery.fleet", *arguments],
        env={**os.environ, "FLEET_URL": fleet.module.URL, "COLUMNS": "200"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_inspect_shows_breakers_and_limits(fleet: Fleet) -> None:
    fleet.worker("-Q", "celery,settling")
    fleet.trip("charge_once")
    fleet.module.settle.resilience.breaker.force_open("ada", "moving")
    (answer,) = json.loads(celery(fleet, "inspect", "breakers", "--json")).values()
    assert answer["breakers"]["ledger"]["state"] == "open"
    assert answer["breakers"]["settling"]["author"] == "ada"
    eventually(
        lambda: fleet.app.control.inspect()._request("breakers")["w1@test"]["worker"]["paused_queues"] == ["settling"]
    )
    (limits,) = json.loads(celery(fleet, "inspect", "limits", "--json")).values()
    assert limits["tests.celery.fleet.limited"]["remaining"] == 10
    assert limits["tests.celery.fleet.per_tenant"]["rate_key"] == "{tenant}"
    assert limits["tests.celery.fleet.two_at_a_time"]["concurrency"] == 2


def test_control_opens_closes_and_resets_once_for_the_whole_fleet(fleet: Fleet) -> None:
    fleet.worker("-c", "1")
    fleet.worker("-c", "1")
    breaker = fleet.module.charge_once.resilience.breaker
    said = celery(fleet, "control", "breaker_open", "ledger", "they are moving", "ada")
    assert "ledger opened" in said
    assert "by another worker" in said
    status = breaker.get_status()
    assert (status["state"], status["mode"], status["author"], status["reason"]) == (
        "open",
        "forced_open",
        "ada",
        "they are moving",
    )
    celery(fleet, "control", "breaker_close", "ledger")
    assert breaker.get_status()["mode"] == "forced_closed"
    celery(fleet, "control", "breaker_reset", "ledger")
    assert breaker.get_status()["mode"] == "automatic"
    assert [entry["event"] for entry in breaker.history()] == ["reset", "forced_closed", "forced_open"]


def test_the_command_group_does_the_same_without_a_worker(fleet: Fleet) -> None:
    breaker = fleet.module.charge_once.resilience.breaker
    assert "The store lists no breaker yet" in celery(fleet, "resilience", "status")
    celery(fleet, "resilience", "open", "ledger", "--reason", "they are moving", "--author", "ada", "--ttl", "60")
    told = celery(fleet, "resilience", "status")
    assert "forced open by ada: they are moving" in told
    assert "0/3" in told  # its settings come from the app's tasks
    assert json.loads(celery(fleet, "resilience", "status", "--json"))["ledger"]["mode"] == "forced_open"
    celery(fleet, "resilience", "close", "ledger")
    assert breaker.get_status()["mode"] == "forced_closed"
    celery(fleet, "resilience", "reset", "ledger")
    events = [line.split()[2] for line in celery(fleet, "resilience", "history", "ledger").splitlines()]
    assert events == ["reset", "forced_closed", "forced_open"]
    assert "0 tasks brought back from graveyard" in celery(fleet, "resilience", "replay", "graveyard")


def test_watch_is_a_live_board_until_it_is_interrupted(fleet: Fleet) -> None:
    fleet.trip("charge_once")
    with Process.python(
        *("-m", "celery", "-A", "tests.celery.fleet", "resilience", "watch", "--every", "0.1"),
        environ={"FLEET_URL": fleet.module.URL, "COLUMNS": "150"},
    ) as board:
        eventually(lambda: any("ledger" in line and "open" in line for line in board.lines), timeout=30)


def test_signals_tell_what_happened(fleet: Fleet) -> None:
    worker = fleet.worker("-c", "1", FLEET_TELL="1")
    fleet.outage()
    orders = [fleet.module.charge.delay(n) for n in range(3)]
    worker.wait_for("signal breaker_opened payments")
    worker.wait_for("signal task_deferred tests.celery.fleet.charge")
    fleet.recovery()
    assert [order.get(timeout=20)["order"] for order in orders] == [0, 1, 2]
    worker.wait_for("signal breaker_closed payments")
    worker.wait_for("signal task_resumed tests.celery.fleet.charge")
    for n in range(3):  # of which two pass in an hour
        fleet.module.per_tenant.delay(n, tenant="a")
    worker.wait_for("signal rate_limited tests.celery.fleet.per_tenant")


def test_flower_shows_what_a_task_waits_for_and_until_when(fleet: Fleet) -> None:
    with fleet.flower("--conf=tests/celery/flowerconfig.py") as url:
        fleet.worker()
        fleet.trip("charge_someday")
        waiting = fleet.module.charge_someday.delay(1)
        seen: dict[str, Any] = {}

        def shown() -> bool:
            page: dict[str, Any] = {"draw": 1, "start": 0, "length": 10, "search[value]": "", "order[0][column]": 0}
            reply = requests.get(
                f"{url}/tasks/datatable",
                params={**page, "order[0][dir]": "asc", "columns[0][data]": "name"},
                timeout=5,
            )
            rows = reply.json()["data"] if reply.ok else []
            seen.update(next((row for row in rows if row["uuid"] == waiting.id), {}))
            return bool(seen.get("exception") and seen.get("eta"))

        eventually(shown)
        assert seen["exception"] == "'slow-lane' open"
        html = requests.get(f"{url}/tasks", timeout=5).text
        assert 'data-column="exception"' in html
        assert 'data-column="eta"' in html


@pytest.mark.parametrize(
    ("state", "exception", "shown"),
    [
        ("RETRY", "CircuitBreakerError('pay (v2)' open, retry in 42 s)", "'pay (v2)' open"),
        ("RETRY", "RateLimitExceeded('supplier' limited, retry in 0.21 s)", "'supplier' limited"),
        ("RETRY", "ConnectionError('no answer')", "ConnectionError('no answer')"),
        ("FAILURE", "CircuitBreakerError('x' open, retry in 42 s)", "CircuitBreakerError('x' open, retry in 42 s)"),
        ("SUCCESS", "CircuitBreakerError('x' open, retry in 42 s)", None),
    ],
)
def test_what_flower_is_told_of_a_task(state: str, exception: str, shown: str | None) -> None:
    task: Any = TaskEvents(uuid="1", state=state, exception=exception, retried=1_000_000.0)
    told = columns.format_task(task)
    assert told.exception == shown
    assert bool(told.eta) == (shown is not None and shown.startswith("'"))


def test_a_deferral_is_no_error_to_sentry(fleet: Fleet) -> None:
    fleet.worker("-c", "1", FLEET_SENTRY="1")
    fleet.trip("charge_once")
    waiting = fleet.module.charge_once.delay(1)
    eventually(lambda: waiting.state == "RETRY")
    with pytest.raises(Exception, match="open, retry in"):
        fleet.module.charge_or_fail.delay(2).get(timeout=20)
    eventually(lambda: fleet.world.llen("sentry"))
    assert fleet.world.lrange("sentry", 0, -1) == ["tests.celery.fleet.charge_or_fail CircuitBreakerError"]
