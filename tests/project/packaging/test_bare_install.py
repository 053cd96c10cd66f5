"""What ``pip install resilient-tasks`` brings, and nothing else, is enough for what README says first."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.project.packaging.installed import ALONE, run
from tests.servers import ROOT, Process, valkey

pytestmark = pytest.mark.job

README_SERVER = "redis://localhost:6379"
REFUSED = """
from ratelimit_core import CircuitBreaker
from shop import charge
CircuitBreaker("payments").force_open("ada", "they are moving", ttl=3)
print(charge.delay(2).id)
"""
SCRAPE = """
from django.conf import settings
settings.configure(RATELIMIT_METRICS_TOKEN="scraper")
from django.test import RequestFactory
from ratelimit_core.django.metrics import metrics
response = metrics(RequestFactory().get("/", headers={"Authorization": "Bearer scraper"}))
print(response.status_code, response.text)
"""
EXTRAS = {
    "ratelimit_core.django.drf": "drf",
    "ratelimit_core.metrics.opentelemetry": "opentelemetry",
    "ratelimit_core.metrics.prometheus": "prometheus",
    "resilient_tasks.ops.watch": "cli",
}
"""The modules that need an extra."""


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


def test_each_module_can_be_imported_or_names_the_extra_that_it_needs(bare_python: str, tmp_path: Path) -> None:
    program = str(ROOT / "tests" / "project" / "packaging" / "imports.py")
    found = json.loads(run(bare_python, "-I", program, cwd=tmp_path))
    assert found["modules"] > 100
    assert found["failed"].pop("ratelimit_core.pytest_plugin") == "No module named 'pytest'"  # which loads it
    assert found["failed"].keys() == EXTRAS.keys()
    for module, extra in EXTRAS.items():
        assert f"pip install 'resilient-tasks[{extra}]'" in found["failed"][module]
    assert found["absent"] == ["opentelemetry", "prometheus_client", "pytest", "rest_framework", "rich"]


def test_the_page_for_prometheus_says_which_extra_it_needs(bare_python: str, tmp_path: Path) -> None:
    answer = run(bare_python, "-I", "-c", SCRAPE, cwd=tmp_path)
    assert answer.startswith("501 ")
    assert "pip install 'resilient-tasks[prometheus]'" in answer
