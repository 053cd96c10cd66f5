"""Messages that another version has put off: each runs once, and no limit is passed for it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from resilient_tasks.execution.wait_header import HEADER, Waiting
from tests.celery.conftest import Fleet, app_settings, fleet
from tests.compatibility.record import RECORDED
from tests.security.test_messages import send

__all__ = ["app_settings", "fleet"]

MESSAGES: dict[str, Any] = json.loads(RECORDED.with_name("messages.json").read_text())


@pytest.mark.parametrize(("title", "waited"), [("as now", Waiting(2, 3.5, (0, "id@host:7:slot", 1), 0.0))])
def test_what_this_version_writes_is_read_as_it_was(title: str, waited: Waiting) -> None:
    assert Waiting.of({HEADER: MESSAGES[title]}) == waited
    assert waited.header() == MESSAGES[title]


@pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES)
def test_what_is_known_of_a_wait_counts_and_the_rest_is_nothing(message: Any) -> None:
    waiting = Waiting.of({HEADER: message})
    known = message if isinstance(message, dict) else {}
    assert waiting.deferrals == (known.get("deferrals", 0) if isinstance(known.get("deferrals", 0), int) else 0)
    assert waiting.too_early == 0


def test_each_of_them_runs_once(fleet: Fleet) -> None:
    fleet.worker("-c", "2")
    sent = [send(fleet, "charge", n, **{HEADER: message}) for n, message in enumerate(MESSAGES.values())]
    results = [fleet.app.AsyncResult(task_id).get(timeout=20) for task_id in sent]
    assert [(result["order"], result["runs"]) for result in results] == [(n, 1) for n in range(len(MESSAGES))]
    assert fleet.calls == len(MESSAGES)
