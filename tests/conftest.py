"""What the tests stand on: every store there is, and a missing server that fails where ``CI=true``."""

from __future__ import annotations

import functools
import gc
import hashlib
import importlib
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import redis
from celery import _state

from ratelimit_core.backends import Backend, DatabaseBackend, MemoryBackend, MultiBackend, RedisBackend
from ratelimit_core.backends.redis import backend as redis_backend
from ratelimit_core.circuit_breaker import circuit_breaker_registry
from ratelimit_core.config import sources
from ratelimit_core.store import configured, factory
from ratelimit_core.testing import ManualClock
from tests import databases, servers
from tests.conformance import profiles  # noqa: F401 - registers them before an option can ask for one
from tests.faults import table

STORES = ["memory", "valkey", "redis", "sqlite", "postgresql", "mariadb", "multi"]
"""Tests that are marked `every_store` run on each of these. What they decide is compared in tests/conformance."""
USUAL = ["memory", "valkey"]
"""Every other test that asks for a store runs on these: one in the process, and one that processes share."""

SERVERS = {"valkey_url", "redis_url", "default_redis", "postgresql", "mariadb", "fleet_module"}
"""Fixtures that are servers, for which --quick has no time."""

NODES = {"process": "tests.nodes.processes", "docker": "tests.nodes.containers"}
"""Whose fixtures make the brokers, backends and workers of tests/nodes."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--celery-nodes", choices=list(NODES), default="process", help="what pytest-celery's nodes are (tests/nodes)"
    )

    parser.addoption("--whole", action="store_true", help="also what takes longer than seconds (marked `whole`)")
    parser.addoption("--quick", action="store_true", help="only what needs no server, process or time")
    parser.addoption("--faults-table", type=Path, help="the page to write what the faults of tests/faults did into")


def pytest_configure(config: pytest.Config) -> None:
    servers.quick = config.getoption("quick")
    config.option.randomly_reset_seed = False  # of pytest-randomly: only the order of the tests is random
    config.pluginmanager.import_plugin(NODES[config.getoption("celery_nodes")])
    for marker in (
        "whole: takes longer than seconds; runs with --whole",
        "every_store: depends on how a store does it, so it runs on every kind of store",
        "timed: measures time, so it runs alone, after the others",
        "slow: takes seconds of computing; does not run with --quick",
        "job: builds, installs, type-checks, fuzzes or soaks; `make test-jobs` runs it",
    ):
        config.addinivalue_line("markers", marker)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "store_kind" in metafunc.fixturenames:
        every = metafunc.definition.get_closest_marker("every_store")
        metafunc.parametrize("store_kind", STORES if every else USUAL)


def pytest_xdist_auto_num_workers() -> int:
    """Return how many processes ``-n auto`` runs: more than there are cores, because many tests wait for a server.

    Not too many: each has sessions of its own on the machine's servers.
    """
    return min(8, 3 * len(os.sched_getaffinity(0)))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    whole, quick = config.getoption("whole"), config.getoption("quick")

    def is_wanted(item: pytest.Item) -> bool:
        if quick and (SERVERS.intersection(getattr(item, "fixturenames", ())) or not _is_quick(item)):
            return False
        return whole or item.get_closest_marker("whole") is None

    wanted: list[pytest.Item] = []
    others: list[pytest.Item] = []
    for item in items:
        (wanted if is_wanted(item) else others).append(item)
    config.hook.pytest_deselected(items=others)
    items[:] = wanted


def _is_quick(item: pytest.Item) -> bool:
    return not any(item.get_closest_marker(name) for name in ("job", "timed", "slow"))


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    page, seen = session.config.getoption("faults_table"), session.config.stash.get(table.rows, [])
    if page is not None and exitstatus == 0:
        table.write(page, seen)


@pytest.fixture(scope="session")
def valkey_url() -> Iterator[str]:
    """The embedded Valkey: needs nothing installed but the wheel."""
    with servers.valkey() as url:
        yield url


@pytest.fixture(scope="session")
def redis_url() -> str:
    """The machine's Redis."""
    return _answering(os.environ.get("TEST_REDIS_URL", "redis://127.0.0.1:6379/15"))


@pytest.fixture(scope="session")
def default_redis() -> str:
    """The Redis that is asked where nobody says which: tests keep to a prefix of their own there."""
    return _answering("redis://localhost:6379/0")


def _answering(url: str) -> str:
    servers.needed()
    try:
        with redis.Redis.from_url(url, socket_connect_timeout=1) as client:
            client.ping()
    except redis.RedisError as error:
        servers.missing(f"no Redis at {url}: {error}")
    return url


@pytest.fixture(scope="session")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An alias of Django's for a file."""
    with databases.sqlite(tmp_path_factory.mktemp("database")) as alias:
        yield alias


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """An alias of Django's for a database of the suite's own on the machine's PostgreSQL."""
    with databases.postgresql() as alias:
        yield alias


@pytest.fixture(scope="session")
def mariadb() -> Iterator[str]:
    """The same on the machine's MariaDB."""
    with databases.mariadb() as alias:
        yield alias


@pytest.fixture(scope="session")
def fleet_module() -> Iterator[ModuleType]:
    """The app and the tasks of tests/celery, with a Valkey of their own."""
    with servers.valkey() as url, pytest.MonkeyPatch.context() as patch, ExitStack() as until_the_end:
        patch.setenv("FLEET_URL", url.rsplit("/", 1)[0])
        circuit_breaker_registry._breakers.clear()
        module: Any = importlib.import_module("tests.celery.fleet")
        module.breakers = dict(circuit_breaker_registry._breakers)
        module.shared_worker, module.until_the_end = None, until_the_end
        yield module
        gc.collect()  # results unsubscribe when they go: the server must still be there
        module.app.backend.result_consumer.stop()
        module.app.close()
        module.world.close()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def lasting_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have keys last a minute longer: they end by the server's clock, and the test's stands still."""
    for name in ("script", "script_for_each"):
        monkeypatch.setattr(
            redis_backend, name, functools.cache(functools.partial(_lasting, getattr(redis_backend, name)))
        )


def _lasting(script: Callable[..., tuple[str, str]], *arguments: Any) -> tuple[str, str]:
    text, _ = script(*arguments)
    span = "(deadline - now) / 1000)"
    assert span in text
    text = text.replace(span, f"{span} + 60000")
    return text, hashlib.sha1(text.encode()).hexdigest()


@pytest.fixture
def store(store_kind: str, lasting_keys: None, request: pytest.FixtureRequest, clock: ManualClock) -> Iterator[Backend]:
    """Each backend in turn, empty, on the test's clock."""
    prefix = f"test-{uuid.uuid4().hex}"
    backend: Backend
    match store_kind:
        case "memory":
            backend = MemoryBackend(clock=clock)
        case "valkey" | "redis":
            url = request.getfixturevalue(f"{store_kind}_url")
            backend = RedisBackend(url, key_prefix=prefix, clock=clock, **servers.PATIENT)
        case "multi":
            url = request.getfixturevalue("valkey_url")
            first = RedisBackend(url, key_prefix=prefix, clock=clock, **servers.PATIENT)
            backend = MultiBackend([first, MemoryBackend(clock=clock)])
        case _:
            backend = DatabaseBackend(request.getfixturevalue(store_kind), key_prefix=prefix, clock=clock, timeout=20)
    yield backend
    backend.clear()
    backend.close()


@pytest.fixture(autouse=True)
def fresh_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test sees another's breakers, settings or Celery app."""
    circuit_breaker_registry._breakers.clear()  # a module that a fixture of the session imports may define breakers
    monkeypatch.setattr(sources, "sources", [])
    celery_state: Any = _state
    app = celery_state._tls.current_app
    yield
    celery_state._set_current_app(app)  # an app that a test makes becomes the current one, and stays that when closed
    circuit_breaker_registry._breakers.clear()
    sources.explicit.clear()
    factory._registered.clear()
    configured.forget()
