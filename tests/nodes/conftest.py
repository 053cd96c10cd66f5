"""What pytest-celery sets up: a broker, a result backend and a worker, each a node of its own."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
from pytest_celery import (
    CeleryBackendCluster,
    CeleryBrokerCluster,
    CeleryTestBackend,
    CeleryTestBroker,
    CeleryTestSetup,
    RedisContainer,
)

from tests.nodes.worker import Worker


class Setup(CeleryTestSetup):
    def teardown(self) -> None:
        """Let go of the servers while they are there."""
        gc.collect()  # results unsubscribe when they go
        self.app.backend.result_consumer.stop()
        self.app.close()


@pytest.fixture
def celery_setup_cls() -> type[Setup]:
    return Setup


@pytest.fixture
def celery_broker_cluster(celery_redis_broker: CeleryTestBroker) -> CeleryBrokerCluster:
    return CeleryBrokerCluster(celery_redis_broker)


@pytest.fixture
def celery_backend_cluster(default_redis_backend: RedisContainer) -> CeleryBackendCluster:
    # Not a RedisTestBackend: it would look at every object there is, and take the backend from others' results.
    return CeleryBackendCluster(CeleryTestBackend(default_redis_backend))


@pytest.fixture
def default_worker_container_cls() -> type[Worker]:
    return Worker


@pytest.fixture
def world(celery_setup: CeleryTestSetup) -> Iterator[Any]:
    """What the tasks look at to know how their upstream is."""
    client = celery_setup.backend.container.client
    yield client
    client.close()
