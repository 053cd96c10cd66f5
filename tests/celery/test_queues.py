"""A message that is published again stays the same message."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from kombu import Connection, Exchange, Producer, Queue

from resilient_tasks.queues import publish_again
from tests import servers


@pytest.fixture(params=["valkey", "rabbitmq"])
def connection(request: pytest.FixtureRequest) -> Iterator[Any]:
    if request.param == "valkey":
        with Connection(request.getfixturevalue("valkey_url")) as connection:
            yield connection
    else:
        with servers.rabbitmq() as url, Connection(url) as connection:
            yield connection


@pytest.mark.parametrize("compression", [None, "gzip", "bzip2"])
@pytest.mark.parametrize("serializer", ["json", "pickle", "yaml"])
def test_a_message_that_is_published_again_can_be_read(
    connection: Any, serializer: str, compression: str | None
) -> None:
    payload = {"order": 7, "note": "é" * 1000}
    queue = Queue(f"test-{uuid.uuid4().hex}", Exchange(""), auto_delete=True)(connection.default_channel)
    queue.declare()
    producer = Producer(connection)
    producer.publish(payload, routing_key=queue.name, serializer=serializer, compression=compression, priority=3)
    for _ in range(3):
        message = queue.get(accept=["json", "pickle", "yaml"])
        assert message is not None
        publish_again(producer, message, "", queue.name)
        message.ack()
        assert message.decode() == payload
        assert message.headers.get("compression") == {"gzip": "application/x-gzip", "bzip2": "application/x-bz2"}.get(
            str(compression)
        )
        assert str(message.properties["priority"]) == "3"
    queue.delete()
