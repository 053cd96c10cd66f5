"""The tutorial, word for word, with the code that is here. An installed wheel runs it in tests/project/packaging."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.project import tutorial
from tests.servers import ROOT

pytestmark = pytest.mark.job


def test_the_tutorial(tmp_path: Path) -> None:
    tutorial.follow(tmp_path, Path(sys.executable), {"PYTHONPATH": str(ROOT)})
