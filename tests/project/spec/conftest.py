"""Every backend in turn, each of which can be made to fail."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.http import HttpRequest
from django.test import RequestFactory

from ratelimit_core import configure
from ratelimit_core.backends import Backend, DatabaseBackend, MemoryBackend, MultiBackend, RedisBackend
from ratelimit_core.testing import ManualClock
from tests.backends.redis import topology
from tests.django.conftest import configured

__all__ = ["configured"]

Make = Callable[..., Backend]
Get = Callable[..., HttpRequest]

KINDS = ["memory", "valkey", "redis", "sentinel", "cluster", "sqlite", "postgresql", "mariadb", "multi"]


@pytest.fixture(scope="session")
def sentinel_url() -> Iterator[str]:
    with topology.watched() as watched:
        yield watched.url


@pytest.fixture(scope="session")
def cluster_url() -> Iterator[str]:
    with topology.cluster() as cluster:
        yield cluster.url


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest, clock: ManualClock) -> Iterator[Make]:
    """Makes backends of each kind in turn, with options, empty and on the test's clock."""
    kind: str = request.param
    made: list[Backend] = []
    place = "" if kind == "memory" else request.getfixturevalue(_PLACES.get(kind, kind))

    def make(**options: Any) -> Backend:
        prefix = f"spec-{uuid.uuid4().hex}"
        options = {"clock": clock, **options}
        if kind == "memory":
            backend: Backend = MemoryBackend(**options)
        elif kind == "multi":
            stores = [RedisBackend(place, key_prefix=prefix, **_PATIENCE, **options), MemoryBackend(**options)]
            backend = MultiBackend(stores, **options)
        elif kind in _PLACES:
            patience = _PATIENCE | ({"sentinel_kwargs": _PATIENCE} if kind == "sentinel" else {})
            backend = RedisBackend(place, key_prefix=prefix, **patience, **options)
        else:
            backend = DatabaseBackend(place, key_prefix=prefix, timeout=30, **options)
        made.append(backend)
        return backend

    yield make
    for backend in made:
        backend.reset_circuit_breaker()
        backend.clear()
        backend.close()


_PATIENCE: dict[str, Any] = {"socket_timeout": 30, "socket_connect_timeout": 30}
"""On a busy machine a store is slow, which is not to be taken for away: no test here waits for it."""

_PLACES = {
    "valkey": "valkey_url",
    "redis": "redis_url",
    "sentinel": "sentinel_url",
    "cluster": "cluster_url",
    "multi": "valkey_url",
}


@pytest.fixture
def backend(make: Make) -> Backend:
    """Each backend in turn, which is also the configured one."""
    backend = make()
    configure(backend=backend)
    return backend


_DRIVER = (
    *("_apply", "_aapply", "_apply_each", "_aapply_each", "_delete", "_keys", "_clear"),
    *("_append", "_aappend", "_entries"),
)


@contextmanager
def failing(backend: Backend, error: type[BaseException] = ConnectionError) -> Iterator[list[str]]:
    """Has everything that ``backend`` asks its store, or its stores, raise ``error``; what was asked."""
    asked: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for store in getattr(backend, "backends", (backend,)):
            for name in _DRIVER:

                def fail(*_: object, name: str = name) -> Any:
                    asked.append(name)
                    raise error("the store is broken")

                patch.setattr(store, name, fail)
        yield asked


@pytest.fixture
def get() -> Get:
    """A request of a user, who is logged in if he has a number."""

    def get(user: int | None = None, **headers: Any) -> HttpRequest:
        request = RequestFactory().get("/", **headers)
        request.user = User(user)  # type: ignore[assignment] # all that a limit asks of one
        return request

    return get


class User:
    def __init__(self, pk: int | None) -> None:
        self.pk = pk
        self.is_authenticated = pk is not None
