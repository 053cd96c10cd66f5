"""A prefork worker is one target, whatever becomes of its children."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.celery.conftest import Fleet
from tests.servers import eventually, free_port


def test_nothing_is_lost_or_counted_twice_when_children_are_replaced(
    fleet: Fleet, tmp_path: Path, gather: Callable[..., list[Any]]
) -> None:
    port = free_port()
    environ = {"FLEET_METRICS": str(port), "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    fleet.worker("-c", "2", "--max-tasks-per-child", "5", **environ)

    def value(name: str, **labels: str) -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        return sum(
            sample.value for sample in samples if sample.name == name and labels.items() <= sample.labels.items()
        )

    def calls(outcome: str) -> float:
        return value("resilience_breaker_calls_total", breaker="payments", outcome=outcome)

    gather([fleet.module.charge.delay(order) for order in range(40)])
    fleet.module.tick.delay()  # a child that has run its share leaves when the next task comes
    eventually(lambda: len(list(tmp_path.glob("counter_*.db"))) >= 6)
    eventually(lambda: calls("success") == 40)
    fleet.outage()
    waiting = [fleet.module.charge.delay(order) for order in range(40, 44)]
    eventually(lambda: value("resilience_task_deferrals_total", reason="breaker") >= 4)
    assert value("resilience_breaker_transitions_total", breaker="payments", to="open") >= 1
    assert value("resilience_store_up") == 1
    fleet.recovery()
    gather(waiting)
    eventually(lambda: calls("success") == 44)
    assert calls("failure") == int(fleet.world.hget("calls by", "up")) - 44
    assert calls("success") == 44, "and stays so"


def test_opentelemetry_is_told_of_tasks_by_each_child(
    fleet: Fleet, tmp_path: Path, gather: Callable[..., list[Any]]
) -> None:
    fleet.worker("-c", "2", FLEET_TELEMETRY=str(tmp_path))

    def total(metric: str, **attributes: str) -> float:
        """Over all children, what each told last."""
        points = [
            point
            for file in tmp_path.iterdir()
            if (line := file.read_text().rpartition("\n")[0].rpartition("\n")[2])
            for resource in json.loads(line)["resource_metrics"]
            for scope in resource["scope_metrics"]
            for each in scope["metrics"]
            if each["name"] == metric
            for point in each["data"]["data_points"]
            if attributes.items() <= point["attributes"].items()
        ]
        return float(sum(point["value"] if "value" in point else point["count"] for point in points))

    def reaches(metric: str, least: float, **attributes: str) -> None:
        eventually(lambda: total(metric, **attributes) >= least)

    gather([fleet.module.charge.delay(order) for order in range(20)])
    reaches("resilience.breaker.calls", 20, breaker="payments", outcome="success")
    fleet.outage()
    waiting = [fleet.module.charge.delay(order) for order in range(20, 24)]
    reaches("resilience.task.deferrals", 4, reason="breaker")
    reaches("resilience.breaker.transitions", 1, breaker="payments", to="open")
    reaches("resilience.tasks.waiting", 1, breaker="payments")
    fleet.recovery()
    gather(waiting)
    reaches("resilience.task.waited_seconds", 4, task=fleet.module.charge.name)
    reaches("resilience.store.seconds", 1)
    assert total("resilience.breaker.calls", breaker="payments", outcome="success") <= 24
