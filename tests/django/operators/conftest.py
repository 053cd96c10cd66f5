"""A Django project in processes of its own, with its database, its people, and a store that they share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ratelimit_core.backends import Backend, RedisBackend
from tests.django.operators.browser import Browser
from tests.servers import PATIENT, ROOT, Process, free_port, needed


@dataclass
class Site:
    """The project in ``tests/django/operators/site``, on one store."""

    directory: Path
    store: str
    prefix: str = field(default_factory=lambda: f"operators-{uuid.uuid4().hex}")

    @property
    def environ(self) -> dict[str, str]:
        return {
            "DJANGO_SETTINGS_MODULE": "tests.django.operators.site.settings",
            "SITE_DATABASE": str(self.directory / "site.sqlite3"),
            "SITE_RESILIENCE": str(self.directory / "resilience.sqlite3"),
            "SITE_GATE": str(self.directory / self.prefix),
            "RATELIMIT_BACKEND": self.store,
            "RATELIMIT_DATABASE": "resilience",
            "RATELIMIT_KEY_PREFIX": self.prefix,
            "LOGNAME": "operator",
        }

    def python(
        self, *arguments: str, environ: Mapping[str, str] | None = None, stdin: int = subprocess.DEVNULL
    ) -> subprocess.CompletedProcess[str]:
        needed()
        return subprocess.run(
            [sys.executable, "-W", "error", *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **self.environ, **(environ or {})},
            stdin=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def manage(self, *arguments: str, stdin: int = subprocess.DEVNULL) -> subprocess.CompletedProcess[str]:
        """``manage.py`` and the arguments."""
        return self.python("-m", "django", *arguments, stdin=stdin)

    @contextmanager
    def serving(self, port: int | None = None, **environ: str) -> Iterator[Browser]:
        """A server of the project in a process of its own; a browser for it."""
        address = f"127.0.0.1:{port or free_port()}"
        with Process.python(
            "-m", "django", "runserver", "--noreload", address, environ=self.environ | environ
        ) as server:
            server.wait_for("Quit the server")
            yield Browser(f"http://{address}")

    def backend(self) -> Backend:
        """The store, as this process sees it."""
        return RedisBackend(self.store, key_prefix=self.prefix, **PATIENT)


def patient(url: str) -> str:
    """The URL of a Valkey for a project that wants an answer, however busy the machine."""
    return f"{url}?socket_timeout=30&socket_connect_timeout=30"


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the databases of the project."""
    directory = tmp_path_factory.mktemp("site")
    done = Site(directory, "memory://").python("-m", "tests.django.operators.site.prepare")
    assert done.returncode == 0, done.stderr
    return directory


@pytest.fixture(scope="module")
def site(project: Path, valkey_url: str) -> Site:
    """The project on Valkey, with nothing in it."""
    return Site(project, patient(valkey_url))


@pytest.fixture(scope="module")
def server(site: Site) -> Iterator[str]:
    """Where the project is served."""
    with site.serving() as browser:
        yield browser.site


@pytest.fixture(scope="module")
def control(server: str) -> Browser:
    """Somebody who may control breakers."""
    return Browser(server).log_in("control")


class Checker:
    """What the system checks say under some settings."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._asked = 0

    def __call__(self, **settings: Any) -> list[tuple[str, str, str]]:
        """Id, message and hint of each."""
        self._asked += 1
        self._process.tell(json.dumps(settings))
        line = self._process.wait_for("checked ", times=self._asked)
        return [tuple(each) for each in json.loads(line.removeprefix("checked "))]


@pytest.fixture(scope="session")
def check() -> Iterator[Checker]:
    environ = {"DJANGO_SETTINGS_MODULE": "tests.django.operators.site.settings"}
    with Process.python("-W", "error", "-m", "tests.django.operators.site.checks", environ=environ) as process:
        yield Checker(process)
