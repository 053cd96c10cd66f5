"""What is built has every file, and works where it is installed alone."""

from __future__ import annotations

import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.project import tutorial
from tests.project.packaging.installed import ALONE, PYTHON, run
from tests.servers import ROOT

pytestmark = pytest.mark.job

PACKAGES = ("ratelimit_core", "resilient_tasks")


def sources() -> set[str]:
    """Every file of the packages, generated ones as well."""
    files = (path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file())
    return {str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts}


def test_the_wheel_has_every_file_and_no_other(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[1]) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        metadata = wheel.read(next(name for name in wheel.namelist() if name.endswith("/METADATA"))).decode()
        points = wheel.read(next(name for name in wheel.namelist() if name.endswith("/entry_points.txt"))).decode()
    assert names == sources()
    for kind in (
        "policies/generated/lua/breaker.lua",
        "policies/generated/sql/breaker.sql",
        "policies/generated/python/token_bucket.py",
        "backends/redis/batch.lua",
        "backends/redis/each.lua",
        "backends/database/apply_call.sql",
        "backends/database/apply_together.sql",
        "backends/database/apply_each.sql",
        "django/console/assets/dashboard.css",
        "py.typed",
    ):
        assert f"ratelimit_core/{kind}" in names
    assert {"ratelimit_core/django/migrations/0001_initial.py", "resilient_tasks/py.typed"} <= names
    assert "License-File: LICENSE" in metadata
    assert "[pytest11]" in points
    assert "[celery.commands]" in points


def test_the_sdist_has_what_the_wheel_and_the_tests_need(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[0]) as sdist:
        names = {member.name.partition("/")[2] for member in sdist.getmembers()}
    assert sources() | {"LICENSE", "README.md", "pyproject.toml", "constraints.txt", "tests/conftest.py"} <= names
    assert not any(name.startswith((".venv", ".git/")) or name.endswith(".pyc") for name in names)


@pytest.fixture(scope="module")
def environment(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where there is a ``.venv`` that has the wheel; of extras it has this one until somebody installs more."""
    directory = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", str(directory / ".venv"))
    run(str(directory / PYTHON), "-m", "pip", "install", "-q", f"{built[1]}[drf]", "pytest", environ=ALONE)
    return directory


def test_an_installed_wheel_works_alone(environment: Path, tmp_path: Path, valkey_url: str) -> None:
    python, program = str(environment / PYTHON), str(ROOT / "tests" / "project" / "packaging" / "program.py")
    assert "all of it works" in run(python, "-I", program, valkey_url, cwd=tmp_path)
    (tmp_path / "test_plugin.py").write_text("def test_clock(resilience_clock):\n    resilience_clock.advance(1)\n")
    assert "1 passed" in run(python, "-m", "pytest", "test_plugin.py", cwd=tmp_path, environ=ALONE)
    celery = (python, "-m", "celery", "-b", "memory://")
    assert "replay" in run(*celery, "resilience", "--help", cwd=tmp_path, environ=ALONE)


def test_the_tutorial_works_with_what_it_installs(environment: Path, tmp_path: Path) -> None:
    run("sh", "-e", "-c", tutorial.how_to_install(), cwd=environment, environ=ALONE)
    python = environment / PYTHON
    where = "import ratelimit_core, resilient_tasks; print(ratelimit_core.__path__, resilient_tasks.__path__)"
    found = run(str(python), "-c", where, cwd=tmp_path, environ=ALONE)
    assert found.count(str(environment / ".venv")) == 2, found
    tutorial.follow(tmp_path, python, ALONE)
