"""The demo is a test of its own: its checks hold with the guard, and fail without it."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from tests.project.example.running import left_over, new_mark, start
from tests.servers import eventually

pytestmark = pytest.mark.job


@pytest.fixture
def mark() -> str:
    return new_mark()


@pytest.mark.whole  # `make demo` fails if one of its own checks does
@pytest.mark.timeout(180)
def test_guarded_it_keeps_every_bound_and_leaves_nothing_behind(mark: str) -> None:
    with start("demo", mark, "--only", "guarded") as process:
        assert process.popen.wait(120) == 0, process.output
        assert process.output.count("kept") == 5
        assert "FAILED" not in process.output
        told = re.search(r"that got Retry-After +│ +(\d+)", process.output)
        assert told, process.output
        assert int(told[1]) > 20
    assert left_over(mark) == []


@pytest.mark.timeout(180)
def test_without_the_guard_the_same_checks_fail(mark: str) -> None:
    with start("demo", mark, "--only", "guarded", RESILIENCE_ENABLED="0") as process:
        assert process.popen.wait(150) == 1, process.output
        checks = {"orders lost", "calls in the outage", "calls in the busiest second"}
        assert checks <= set(re.findall(r"FAILED +([a-z ]+):", process.output)), process.output
    assert left_over(mark) == []


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_however_it_ends_it_leaves_no_process_behind(mark: str, signum: int, tmp_path: Path) -> None:
    with start("demo", mark, "--only", "guarded", TMPDIR=str(tmp_path)) as process:
        process.wait_for("guarded ", timeout=60)
        assert len(left_over(mark)) > 6
        process.popen.send_signal(signum)
        process.popen.wait(30)
        eventually(lambda: left_over(mark) == [])
