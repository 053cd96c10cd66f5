"""``--celery-nodes=docker`` where no Docker engine answers: skipped on a laptop, an error in CI."""

from __future__ import annotations

import pytest

from tests.servers import Process


@pytest.mark.parametrize(("ci", "outcome"), [("", "1 skipped"), ("true", "1 error")])
def test_without_an_engine_it_says_so(ci: str, outcome: str) -> None:
    test = "tests/nodes/test_nodes.py::test_flower_says_what_a_task_waits_for"
    with Process.python(
        *("-m", "pytest", "-rsE", "--celery-nodes=docker", test),
        environ={"CI": ci, "DOCKER_HOST": "unix:///nowhere/docker.sock"},
    ) as tests:
        tests.wait_for("no Docker engine answers")
        tests.wait_for(f"= {outcome} in ")
