from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from ratelimit_core.backends.database import DatabaseBackend
from ratelimit_core.testing import ManualClock


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def alias(request: pytest.FixtureRequest) -> str:
    """Each database in turn."""
    name: str = request.getfixturevalue(request.param)
    return name


@pytest.fixture(params=["postgresql", "mariadb"])
def server(request: pytest.FixtureRequest) -> str:
    """Each database that is a server."""
    name: str = request.getfixturevalue(request.param)
    return name


@pytest.fixture
def prefix() -> str:
    return uuid.uuid4().hex


@pytest.fixture
def backend(alias: str, prefix: str, clock: ManualClock) -> Iterator[DatabaseBackend]:
    """Empty, on the test's clock."""
    backend = DatabaseBackend(alias, timeout=20, key_prefix=prefix, clock=clock)
    yield backend
    backend.clear()
