"""How tests/project/packaging installs what was built, and runs it there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.servers import ROOT

PYTHON = ".venv/bin/python"
ALONE = {
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "PYTHONPATH": "",  # where the checkout may be
    "PIP_CONSTRAINT": str(ROOT / "constraints.txt"),
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
}
"""With it, programs and installers know what is installed, and nothing of the checkout."""


def run(*command: str, cwd: Path = ROOT, environ: Mapping[str, str] | None = None) -> str:
    """Run a command that has to succeed. Return what it writes to stdout."""
    environ = {**os.environ, **(environ or {})}
    done = subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-2000:]
    return done.stdout
