"""Real brokers, each with a queue of the test's own."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
import redis
from kombu import Queue

from tests import servers

from .worker import Worker, make_app

BROKERS = ["valkey", "rabbitmq", "quorum"]


@pytest.fixture(scope="session")
def waiting_valkey() -> Iterator[str]:
    with servers.valkey() as url:
        yield url


@pytest.fixture(scope="session")
def waiting_rabbitmq() -> Iterator[str]:
    with servers.rabbitmq() as url:
        yield url


@dataclass
class Place:
    """A broker, and a queue there that no other test uses."""

    kind: str
    url: str
    queue: Queue
    start: Callable[..., Worker]

    @property
    def is_redis(self) -> bool:
        return self.kind == "valkey"

    @property
    def name(self) -> str:
        return str(self.queue.name)

    def app(self, **settings: Any) -> Any:
        if not self.is_redis:  # a new quorum queue may lose what is published to it without
            settings = {"broker_transport_options": {"confirm_publish": True}, **settings}
        return make_app(self.url, self.queue, **settings)

    def waiting(self, number: int) -> str:
        return f"{self.name}.waiting.{number}"

    def redis(self) -> Any:
        return redis.Redis.from_url(self.url)


def _url(request: pytest.FixtureRequest, kind: str) -> str:
    url: str = request.getfixturevalue("waiting_valkey" if kind == "valkey" else "waiting_rabbitmq")
    if kind == "valkey":
        with redis.Redis.from_url(url) as client:
            client.flushall()
    return url


@pytest.fixture(params=BROKERS)
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    yield from _place(request, request.param)


@pytest.fixture
def valkey_place(request: pytest.FixtureRequest) -> Iterator[Place]:
    yield from _place(request, "valkey")


@pytest.fixture
def rabbitmq_place(request: pytest.FixtureRequest) -> Iterator[Place]:
    yield from _place(request, "rabbitmq")


@pytest.fixture(params=BROKERS[1:])
def amqp_place(request: pytest.FixtureRequest) -> Iterator[Place]:
    yield from _place(request, request.param)


def _place(request: pytest.FixtureRequest, kind: str) -> Iterator[Place]:
    arguments = {} if kind == "valkey" else {"x-queue-type": "quorum" if kind == "quorum" else "classic"}
    queue = Queue(f"q{uuid.uuid4().hex[:8]}", queue_arguments=arguments)
    with ExitStack() as stack:

        def start(app: Any = None, **options: Any) -> Worker:
            worker = Worker(app or found.app(), **options)
            stack.callback(worker.close)
            return worker

        found = Place(kind, _url(request, kind), queue, start)
        yield found
