"""What ``pip install resilient-tasks`` brings, and nothing else, is enough for what README says first."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.packaging.installed import ALONE, run
from tests.servers import ROOT, Process, valkey

pytestmark = pytest.mark.whole

README_SERVER = "redis://localhost:6379"
REFUSED = """
from ratelimit_core import CircuitBreaker
from shop import charge
CircuitBreaker("payments").force_open("ada", "they are moving", ttl=3)
print(charge.delay(2).id)
"""


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Path]:
    """A directory with README's first example as ``shop.py``; its broker and its store are on a server of their own."""
    example = re.search(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert example is not None
    assert example[1].count(README_SERVER) == 2, example[1]
    with valkey() as url:
        (tmp_path / "shop.py").write_text(example[1].replace(README_SERVER, url.rpartition("/")[0]))
        yield tmp_path


def test_readmes_first_example_runs(shop: Path, bare_python: str) -> None:
    def python(*arguments: str) -> str:
        return run(bare_python, *arguments, cwd=shop, environ=ALONE).strip()

    worker = "-m celery -A shop worker --loglevel=INFO --concurrency=1".split()
    with Process(bare_python, *worker, environ=ALONE, cwd=shop) as process:
        process.wait_for(" ready.")
        sent = python("-c", "from shop import charge; print(charge.delay(1).id)")
        process.wait_for(f"Task shop.charge[{sent}] succeeded")
        status = python(*"-m celery -A shop resilience status".split())
        assert ["payments", "closed"] in [line.split()[:2] for line in status.splitlines()]

        refused = python("-c", REFUSED)
        process.wait_for(f"Task shop.charge[{refused}] retry: Retry in")
        assert "info: resilient-tasks" in python(*"-m resilient_tasks check -A shop".split())
        process.wait_for(f"Task shop.charge[{refused}] succeeded")
