"""The site: it is built without a warning, and nothing in it comes from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import ROOT

pytestmark = pytest.mark.job

_FETCHED = re.compile(r'<(?:script|img|iframe|source)\b[^>]*\bsrc="?(?:https?:)?//|<link\b[^>]*\bhref="?(?:https?:)?//')


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(directory)],
        check=False,
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert built.returncode == 0, built.stdout
    return directory


def test_every_page_is_there(site: Path) -> None:
    assert {page.stem for page in site.glob("*.html")} == {page.stem for page in (ROOT / "docs").glob("*.md")} | {"404"}


def test_nothing_comes_from_elsewhere(site: Path) -> None:
    pages = [*site.glob("*.html"), *site.glob("plots/*.svg")]
    assert [page.name for page in pages if _FETCHED.search(page.read_text())] == []
    # what draws those diagrams comes from elsewhere
    assert "mermaid" not in "".join(page.read_text() for page in pages)


def test_docstrings_read_well(site: Path) -> None:
    reference = (site / "reference.html").read_text()
    assert re.findall(r":(?:class|meth|func|mod|attr):", reference) == []
    assert "failure_threshold" in reference
