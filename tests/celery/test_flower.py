"""A real Flower, asked over HTTP: a waiting task says why it waits, and until when."""

from __future__ import annotations

import re

from tests.celery.conftest import Fleet
from tests.flower import waiting


def test_a_waiting_task_says_why_and_until_when(fleet: Fleet) -> None:
    with fleet.flower() as url:
        fleet.worker()
        fleet.trip("charge_someday")
        result = fleet.module.charge_someday.delay(1)
        seen = waiting(url, result.id)
        assert seen["state"] in ("RETRY", "RECEIVED")
        assert re.fullmatch(r"CircuitBreakerError\('slow-lane' open, retry in 4[0-9] s\)", seen["exception"])
        assert seen["retries"] == 0
        assert result.state == "RETRY"
