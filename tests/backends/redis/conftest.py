from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from . import topology


@pytest.fixture(scope="session")
def cluster() -> Iterator[topology.Cluster]:
    with topology.cluster() as cluster:
        yield cluster


@pytest.fixture
def server() -> Iterator[topology.Server]:
    """One that nobody else uses."""
    with topology.one_server() as server:
        yield server


@pytest.fixture
def prefix() -> str:
    return f"test-{uuid.uuid4().hex}"
