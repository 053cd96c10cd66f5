"""``--celery-nodes=docker`` where no Docker engine answers: skipped on a laptop, an error in CI."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.servers import ROOT

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("ci", "code", "outcome"), [("", 0, "1 skipped"), ("true", 1, "1 error")])
def test_without_an_engine_it_says_so(ci: str, code: int, outcome: str) -> None:
    test = "tests/nodes/test_nodes.py::test_flower_says_what_a_task_waits_for"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rsE", "--celery-nodes=docker", test],
        env={**os.environ, "CI": ci, "DOCKER_HOST": "unix:///nowhere/docker.sock"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "no Docker engine answers" in done.stdout
    assert f"= {outcome} in " in done.stdout
