"""``celery resilience watch``: what is on the terminal of somebody who watches an outage."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ratelimit_core import CircuitBreaker, Limiter
from ratelimit_core.backends import RedisBackend
from tests.celery.ops.terminal import Terminal
from tests.servers import ROOT, Process, valkey_that_persists

ENTER, LEAVE, CURSOR = b"\x1b[?1049h", b"\x1b[?1049l", b"\x1b[?25h"

Server = tuple[str, Callable[[], Process]]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """The URL of a store of the test's own, and how to start it."""
    with valkey_that_persists(tmp_path) as (url, start):
        yield url.removesuffix("/0"), start


def watching(url: str, **options: Any) -> Terminal:
    command = "-m celery -A tests.celery.fleet resilience watch --every 0.2".split()
    return Terminal(sys.executable, *command, environ={"FLEET_URL": url, **options.pop("environ", {})}, **options)


def fail(breaker: CircuitBreaker) -> None:
    with pytest.raises(ZeroDivisionError):
        breaker.call(lambda: 1 / 0)


def test_the_board_tells_of_an_outage_as_it_happens(server: Server) -> None:
    url, start = server
    start()
    backend = RedisBackend(f"{url}/2")
    ledger = CircuitBreaker("ledger", failure_threshold=1, recovery_timeout=60, backend=backend)
    ledger.call(len, "")
    with watching(url) as terminal:
        terminal.wait_for("The one breaker is closed", "ledger", "press q to end")
        fail(ledger)
        terminal.wait_for("1 of 1 breaker is open", "ledger opened")
        (row,) = [line.split() for line in terminal.lines if line.startswith("ledger")]
        assert (row[1], row[3], row[-1]) == ("open", "1/3", "-")  # the app's own threshold
        assert row[4] == "in"
        assert 0 < int(row[5]) <= 60
        turns = Limiter("1/s", key="release:ledger", algorithm="leaky_bucket", backend=backend)
        until_probe = ledger.get_status()["next_attempt_time"] - time.time()  # turns begin there
        for _ in range(7):
            turns.reserve(1000, not_before=until_probe)
        Limiter("4/m", key="supplier", backend=backend).hit(3)
        terminal.wait_for("supplier 4/m", "3 of 4")
        terminal.wait_until(lambda text: re.search("^ledger .* 7$", text, re.MULTILINE))
        ledger.force_open("ada", "they are moving \x1b[2J")
        terminal.wait_for("forced open by ada: they are moving \\x1b[2J")
        ledger.clear_override("ada")
        ledger.force_closed("bob", "it is up")
        terminal.wait_for("The one breaker is closed", "forced closed by bob: it is up")
        terminal.press("q")
        assert terminal.end() == 0
        assert terminal.is_as_before()
    assert terminal.written.index(ENTER) < terminal.written.index(LEAVE)
    assert terminal.written.rindex(CURSOR) > terminal.written.index(ENTER)


@pytest.mark.parametrize("way", ["Ctrl-C", "SIGTERM"])
def test_however_it_ends_the_terminal_is_as_it_was(server: Server, way: str) -> None:
    url, start = server
    start()
    with watching(url) as terminal:
        terminal.wait_for("No breaker is in use")
        assert not terminal.is_as_before()
        if way == "Ctrl-C":
            terminal.press("\x03")
        else:
            terminal.popen.send_signal(signal.SIGTERM)
        assert terminal.end() == (0 if way == "Ctrl-C" else 128 + signal.SIGTERM)
        assert terminal.is_as_before()
    assert LEAVE in terminal.written
    assert b"Traceback" not in terminal.written


def test_without_a_store_it_shows_what_it_saw_last_and_goes_on_when_that_is_back(server: Server) -> None:
    url, start = server
    store = start()
    ledger = CircuitBreaker("ledger", failure_threshold=1, recovery_timeout=60, backend=RedisBackend(f"{url}/2"))
    fail(ledger)
    with watching(url) as terminal:
        terminal.wait_for("1 of 1 breaker is open")
        store.kill()
        terminal.wait_for("the state shown is from", "1 of 1 breaker is open", "ledger opened")
        start()
        terminal.wait_until(lambda text: "the store is unavailable" not in text)
        ledger.reset("ada", "it is up")
        terminal.wait_for("No breaker is in use")


def test_it_reads_well_in_80_columns_without_colours_however_much_there_is(server: Server) -> None:
    url, start = server
    start()
    backend = RedisBackend(f"{url}/2")
    for number in range(30):
        CircuitBreaker(f"supplier {number} {'of a long name ' * 5}", backend=backend).call(len, "")
    down = CircuitBreaker("支払い" * 6, failure_threshold=1, backend=backend)
    fail(down)
    down.force_open("ada", "they are moving " * 20)
    with watching(url, environ={"NO_COLOR": "1"}) as terminal:
        terminal.wait_for("1 of 31 breakers is open", "less urgent", "latest events")
        assert terminal.lines[4].startswith("支払い")  # the worst first
        assert "open" in terminal.lines[4]
        assert terminal.lines[5].startswith("  forced open by ada: they are moving")
        assert terminal.lines[5].endswith("…")
        header, row = terminal.lines[3], terminal.lines[6]
        assert row.index("closed") == header.index("state")
        assert row.rindex(" 0 ") + 2 == header.index("failures") + len("failures")
    assert b"\x1b[3" not in terminal.written  # no colour


def test_without_rich_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "rich.py").write_text("raise ImportError('it is not installed')")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    command = "-m celery -A tests.celery.fleet resilience watch".split()
    environ = {"FLEET_URL": "redis://127.0.0.1:1", "PYTHONPATH": path}
    with Process.python(*command, environ=environ) as process:
        process.wait_for("pip install 'resilient-tasks[cli]'")
