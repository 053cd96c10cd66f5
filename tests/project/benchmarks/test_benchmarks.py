"""What the benchmarks measure with; what they compare is not installed for tests."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from importlib.util import find_spec
from itertools import count
from pathlib import Path

import pytest

from benchmarks import report, stage
from benchmarks.cases import CASES
from benchmarks.measure import Contender, Pace, Spread, take_turns
from benchmarks.report import Best, Curves, Row

pytestmark = pytest.mark.timed


def busy(seconds: float) -> None:
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


def test_who_does_more_costs_more() -> None:
    contenders = [Contender("less", lambda: busy(0.001)), Contender("more", lambda: busy(0.003))]
    samples = take_turns(contenders, Pace(rounds=5, batch=0.01, quick=True))
    assert len(samples["less"].cpu) == 5
    assert 1000 <= Spread.of(samples["less"].cpu).median < 1500
    assert 1800 < samples["more"].added_to(samples["less"]).median < 2500
    assert 2 < samples["more"].ratio_to(samples["less"]).median < 4


def test_the_server_counts_what_clients_send_and_not_what_scripts_call() -> None:
    with stage.valkey() as server:
        numbers = count()
        counted = server.counted(lambda: server.client.set(f"key {next(numbers)}", "x"), times=20)
        assert counted.commands == 20
        assert counted.busy > 0
        twice = "redis.call('INCR', 'a') redis.call('INCR', 'b')"
        assert server.counted(lambda: server.client.eval(twice, 0), times=20).commands == 20


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    contenders = [Contender("bare", lambda: None, "floor"), Contender("mine", lambda: busy(0.0001), "ours")]
    samples = take_turns(contenders, Pace(rounds=3, batch=0.001, quick=True))
    rows = [Row("what", "µs", 2.0, 1.0, peers=[Best("peer", 4.0)], floor=Best("bare", 0.1)), Row("more", "/s", None, 5)]
    curves = Curves("keys", "µs", [1, 10], {"mine": [1.0, None]})
    found = report.Report(rows, {"A call": report.figures(contenders, samples, "bare")}, {"Keys": curves})
    report.save(tmp_path / "figures.json", {"case": found}, {"quick": True})
    reports, about = report.read(tmp_path / "figures.json")
    assert about == {"quick": True}
    assert json.dumps(asdict(reports["case"])) == json.dumps(asdict(found))
    page = report.markdown([found])
    assert "| what | peer 4 | bare 0.1 | 2 µs | 0.5 x | ≤ 1 µs | falls short |" in page
    assert "not there yet" in page


def test_every_case_exists() -> None:
    assert all(find_spec(f"benchmarks.cases.{name}") for name in CASES)
