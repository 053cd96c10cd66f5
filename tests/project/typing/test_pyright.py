"""Pyright reads the public API as mypy does. It needs node, or downloads it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.servers import ROOT


@pytest.mark.job
def test_pyright_agrees_with_mypy() -> None:
    files = ["tests/project/typing/api.py", "ratelimit_core/testing.py", "resilient_tasks/testing.py"]
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout
    assert "0 errors" in done.stdout
