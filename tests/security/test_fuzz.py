"""A few seconds of fuzzing; for more see :mod:`tests.security.fuzz`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import ROOT

pytestmark = pytest.mark.job

RUNS = 20_000


@pytest.mark.skipif(sys.platform != "linux", reason="Atheris is made for Linux")
@pytest.mark.parametrize("target", ["addresses", "messages", "retry_after", "keys"])
def test_what_strangers_send_is_read_without_harm(target: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.security.fuzz", target, str(tmp_path / target), f"-runs={RUNS}", "-max_len=300"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"Done {RUNS} runs" in done.stderr
    assert len(list((tmp_path / target).iterdir())) >= 4, "it found its ways into the code"
