"""What is built once for all tests of this directory."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.project.packaging.installed import ALONE, PYTHON, run
from tests.servers import ROOT


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist, and the wheel that is built of it."""
    directory = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(directory), str(ROOT))
    return next(directory.glob("*.tar.gz")), next(directory.glob("*.whl"))


@pytest.fixture(scope="session")
def bare_python(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The Python of an environment that has the wheel and its dependencies, and nothing else, not even pip."""
    directory = tmp_path_factory.mktemp("bare")
    run(sys.executable, "-m", "venv", "--without-pip", str(directory / ".venv"))
    python = str(directory / PYTHON)
    run(sys.executable, "-m", "pip", "--python", python, "install", "-q", str(built[1]), environ=ALONE)
    return python
