"""The demo is a test of its own: its checks hold with the guard, and fail without it."""

from __future__ import annotations

import os
import re
import signal

import psutil
import pytest

from tests.servers import Process, eventually


def left_over(mark: int) -> list[str]:
    """Processes that the demo started and that are still there: each names the module it runs."""
    found = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        environ = process.info["environ"] or {}
        if environ.get("DEMO_OF_TEST") == str(mark) and process.status() != psutil.STATUS_ZOMBIE:
            found.append(" ".join(process.info["cmdline"] or []))
    return found


def demo(mark: int, *arguments: str, **environ: str) -> Process:
    environ = {"COLUMNS": "140", "TERM": "dumb", "DEMO_OF_TEST": str(mark), **environ}
    return Process.python("-m", "example_worker.demo", *arguments, environ=environ)


@pytest.fixture
def mark() -> int:
    return os.getpid() * 1000 + len(os.environ)


@pytest.mark.timeout(180)
def test_guarded_it_keeps_every_bound_and_leaves_nothing_behind(mark: int) -> None:
    with demo(mark, "--only", "guarded") as process:
        assert process.popen.wait(120) == 0, process.output
        assert process.output.count("kept") == 4
        assert "FAILED" not in process.output
    assert left_over(mark) == []


@pytest.mark.timeout(180)
def test_without_the_guard_the_same_checks_fail(mark: int) -> None:
    with demo(mark, "--only", "guarded", RESILIENCE_ENABLED="0") as process:
        assert process.popen.wait(150) == 1, process.output
        failed = re.findall(r"FAILED +(orders lost|calls in the outage|calls in the busiest second)", process.output)
        assert {"orders lost", "calls in the outage"} <= set(failed), process.output
    assert left_over(mark) == []


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_however_it_ends_it_leaves_no_process_behind(mark: int, signum: int) -> None:
    with demo(mark, "--only", "guarded") as process:
        process.wait_for("guarded ", timeout=60)
        assert len(left_over(mark)) > 4
        process.popen.send_signal(signum)
        process.popen.wait(30)
        eventually(lambda: left_over(mark) == [])
