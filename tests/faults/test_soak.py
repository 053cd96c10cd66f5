"""A minute of the soak, with every kind of fault in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.servers import Process
from tests.soak import faults

from .table import Row

pytestmark = pytest.mark.job

SECONDS, SEED = 60.0, 10


@pytest.mark.timeout(300)
def test_a_fleet_under_random_faults_loses_and_leaks_nothing(tmp_path: Path, saw: Callable[[Row], None]) -> None:
    kinds = {kind for group in (faults.UPSTREAM, faults.STORE, faults.WORKERS) for kind in group.kinds}
    assert {fault.kind for fault in faults.plan(SEED, SECONDS)} == kinds
    figures = tmp_path / "figures.json"
    options = ("--seconds", str(SECONDS), "--seed", str(SEED), "--json", str(figures))
    with Process.python("-m", "tests.soak", *options) as soak:
        assert soak.popen.wait(240) == 0, soak.output
    seen = json.loads(figures.read_text())
    saw(
        Row(
            part="Soak",
            fault="the upstream, the store and workers, at random",
            injected=f"{seen['faults']} faults in {SECONDS:.0f} s, while {seen['tasks']} tasks are sent",
            worst_call=seen["slowest"],
            lost=seen["lost"],
            over_admitted=0,
            recovery=seen["drained_in"],
        )
    )
