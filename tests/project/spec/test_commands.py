"""The commands that the pages show do what they say: a shell runs them, in a shop that has what they name.

Blocks that are fenced as ``sh`` are run line by line, and so are whole commands within the text. Of ``make`` it is only
looked what it would do. The tutorial has a test of its own.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple

import pytest
import redis

from ratelimit_core import CircuitBreaker, Limiter
from ratelimit_core.backends import RedisBackend
from tests.celery.ops.terminal import Terminal
from tests.servers import ROOT, Process, eventually, valkey

pytestmark = pytest.mark.job

PAGES = [ROOT / "README.md", *(page for page in (ROOT / "docs").glob("*.md") if page.name != "tutorial.md")]
SHOP = """
import os

from celery import Celery
from resilient_tasks import breaker_task

app = Celery("shop", broker=os.environ["SHOP"])
app.conf.resilience_backend = os.environ["SHOP"]
app.conf.task_routes = {"mail": "mail"}


@breaker_task(breaker="payments", name="charge")
def charge(): ...


@breaker_task(breaker="smtp", on_open="pause", name="mail")
def mail(): ...


@breaker_task(breaker="crm", max_wait=0.1, dead_letter="erp.dead", name="export")
def export(): ...
"""
SETTINGS = """
import os

SECRET_KEY = "shop"
INSTALLED_APPS = ["ratelimit_core.django"]
MIDDLEWARE = ["ratelimit_core.django.middleware.ResilienceMiddleware"]
DATABASES = {
    alias: {"ENGINE": "django.db.backends.sqlite3", "NAME": f"{alias}.sqlite3"} for alias in ("default", "resilience")
}
RATELIMIT_BACKEND = os.environ["SHOP"]
"""
MANAGE = """#!/usr/bin/env python
import os
import sys

from django.core.management import execute_from_command_line

os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
execute_from_command_line(sys.argv)
"""

_FENCED = re.compile(r"^```sh\n((?s:.*?))^```$", re.MULTILINE)
_TEXT = re.compile(r"^```text\n((?s:.*?))^```$", re.MULTILINE)
_INLINE = re.compile(r"`((?:python )?manage\.py [^`]+|celery -A shop (?:resilience|inspect|control) [^`]+)`")

SAID = {
    "celery -A shop resilience status": "erp",
    "celery -A shop resilience history erp": "forced_open",
    "celery -A shop resilience replay erp.dead": "1 task brought back from erp.dead",
    "celery -A shop inspect breakers": '"paused_queues"',
    "celery -A shop inspect active_queues": "'name': 'celery'",
    "python -m resilient_tasks check -A proj": _TEXT.findall((ROOT / "docs" / "check.md").read_text())[0],
    "manage.py migrate": "Applying ratelimit_core",
    "manage.py migrate ratelimit_core --database resilience": "Applying ratelimit_core",
    "manage.py ratelimit_reset --limits supplier --reason 'counted a test run'": "on supplier",
    "manage.py ratelimit_status": "erp",
    "python manage.py ratelimit_health": "store: up",
}
"""What somebody who runs it looks for."""


def commands() -> Iterator[str]:
    """Each of them once, without what is said about it, those first that make tables."""
    text = "\n".join(page.read_text() for page in PAGES)
    lines = "".join(_FENCED.findall(text)).splitlines() + _INLINE.findall(text)
    shown = {shlex.join(shlex.split(line, comments=True)) for line in lines}
    return iter(sorted(shown, key=lambda command: ("migrate" not in command, command)))


MAKE = [command for command in commands() if command.startswith("make ")]
COMMANDS = [command for command in commands() if command not in MAKE]


class Ended(NamedTuple):
    status: int
    output: str


class Shop:
    """A directory with a Celery app and a Django project in it."""

    def __init__(self, directory: Path, url: str) -> None:
        self.directory = directory
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("DJANGO_", "RATELIMIT_"))}
        path = f"{Path(sys.executable).parent}:{directory}:{os.environ['PATH']}"
        self.environ = {**kept, "SHOP": url, "PATH": path, "PYTHONPATH": str(ROOT)}
        for name, text in {
            "shop": SHOP,
            "proj": "from shop import app",
            "settings": SETTINGS,
            "manage": MANAGE,
        }.items():
            (directory / f"{name}.py").write_text(text)
        (directory / "manage.py").chmod(0o755)

    def runs(self, command: str, **environ: str) -> Ended:
        given = self.environ | environ
        if command.endswith(" watch"):
            with Terminal("sh", "-c", command, environ=given, cwd=self.directory) as terminal:
                terminal.wait_for("press q to end")
                terminal.press("q")
                return Ended(terminal.end(), terminal.text)
        for _ in range(5):
            done = subprocess.run(
                ["sh", "-c", command],
                cwd=self.directory,
                env=given,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=60,
                check=False,
            )
            if "No nodes replied" not in done.stdout:  # the worker is given a second, which may be short here
                break
        return Ended(done.returncode, done.stdout)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """A worker runs in it, a limit is in use, and a task has given up."""
    with valkey() as url:
        shop = Shop(tmp_path_factory.mktemp("shop"), url)
        worker = "celery -A shop worker --pool threads --concurrency 2 --queues celery,mail --loglevel info"
        with Process("sh", "-c", f"exec {worker}", environ=shop.environ, cwd=shop.directory) as process:
            backend = RedisBackend(url)
            Limiter("1000/h", key="supplier", backend=backend).hit()
            for name in ("crm", "erp"):
                CircuitBreaker(name, backend=backend).force_open(author="kim", reason="they are migrating")
            process.wait_for("ready.")
            assert shop.runs("celery -A shop call export").status == 0
            with redis.Redis.from_url(url) as broker:
                eventually(lambda: broker.llen("erp.dead"))
            CircuitBreaker("crm", backend=backend).reset(author="kim", reason="they have migrated")
            backend.close()
            yield shop


@pytest.fixture(scope="module")
def ended(shop: Shop) -> Iterator[Mapping[str, Future[Ended]]]:
    """What becomes of each command. Several run at a time: mostly they wait for Python to start, or for workers."""
    with ThreadPoolExecutor(4) as pool:
        ending = {}
        for command in COMMANDS:
            ending[command] = pool.submit(shop.runs, command)
            if "migrate" in command:
                wait([ending[command]])
        yield ending
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_pages_show_works(command: str, ended: Mapping[str, Future[Ended]]) -> None:
    status, output = ended[command].result()
    assert status == 0, output
    assert SAID.get(command, "") in output


def test_no_page_shows_other_commands_any_more() -> None:
    assert set(SAID) <= set(COMMANDS)


@pytest.mark.parametrize("command", ["python manage.py ratelimit_health", "python -m resilient_tasks check -A proj"])
def test_without_a_store_it_ends_with_1(command: str, shop: Shop) -> None:
    assert shop.runs(command, SHOP="redis://127.0.0.1:1/0").status == 1


@pytest.mark.parametrize("command", MAKE)
def test_make_knows_what_pages_have_it_do(command: str) -> None:
    environ = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    done = subprocess.run(
        f"{command} --dry-run", shell=True, cwd=ROOT, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for option in shlex.split(command)[2:]:
        assert option.partition("=")[2] in done.stdout


def test_every_extra_that_pages_install_is_there() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {
        name
        for page in (ROOT / "docs").glob("*.md")
        for name in re.findall(r"resilient-tasks\[(\w+)\]", page.read_text())
    }
    assert {"demo", "prometheus"} <= named <= set(extras)
