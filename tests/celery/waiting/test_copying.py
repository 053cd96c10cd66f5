"""What a moved message keeps: everything that a run could see, for every way to write a message."""

from __future__ import annotations

import datetime
import itertools
import uuid
from decimal import Decimal
from typing import Any

from celery import Celery, Task
from celery.worker import strategy
from kombu import Queue

from resilient_tasks.waiting.broker import Origin, original
from resilient_tasks.waiting.broker.copying import HEADER

from .conftest import Place

KWARGS: dict[str, dict[Any, Any]] = {
    "json": {"text": "ä€" * 50, "at": datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC), "id": uuid.UUID(int=5)},
    "pickle": {1: "an int key", "set": {1, 2}, "bytes": b"\xff\x00" * 50, "ten": Decimal("0.10")},
    "yaml": {1: "an int key", "text": "ä" * 50},
}
COMPRESSIONS = [None, "gzip", "bzip2"]


def publish_all(app: Celery, place: Place) -> int:
    """Publish a task in every way; how many."""
    tasks: Any = app
    ways = list(itertools.product(KWARGS, COMPRESSIONS, [1, 2]))
    with app.connection_for_write() as connection, tasks.amqp.Producer(connection.channel()) as producer:
        for n, (serializer, compression, protocol) in enumerate(ways):
            app.conf.task_protocol = protocol
            del tasks.amqp
            send = tasks.amqp.send_task_message
            message = tasks.amqp.create_task_message(
                *(f"{serializer}-{compression}-{protocol}", "a.task"),
                *(("arg", n), {str(key) if serializer == "json" else key: v for key, v in KWARGS[serializer].items()}),
                **{"expires": 3600, "reply_to": "reply.here", "retries": 2},
            )
            message.headers.update(mine={"a": [1, {"b": None}], "float": 1.5}, stamped="x")
            send(
                *(producer, "a.task", message),
                **{"queue": tasks.amqp.queues[place.name], "serializer": serializer, "compression": compression},
                **{"priority": n % 4, "app_id": "shop", "message_id": f"message-{n}", "timestamp": 1_700_000_000},
                **({} if place.is_redis else {"delivery_mode": 1 + n % 2}),
            )
    return len(ways)


def seen(message: Any) -> dict[str, Any]:
    """Everything of a message that a run could see, and its body as it came."""
    properties = dict(message.properties)
    for name in ("delivery_tag", "delivery_info", "application_headers", "expiration"):
        properties.pop(name, None)
    shown = original(message)
    info = {name: shown.delivery_info.get(name) for name in ("exchange", "routing_key")}
    return {
        "body": message._raw["body"] if hasattr(message, "_raw") else message.body_as_it_came,
        "payload": message.payload,
        "type": (message.content_type, message.content_encoding),
        "headers": shown.headers,
        "properties": properties,
        "delivery": info,
    }


def test_everything_is_kept(place: Place) -> None:
    app = place.app(task_protocol=2)
    count = publish_all(app, place)
    worker = place.start(app)
    worker.consume()
    worker.until(lambda: len(worker.received) == count)
    to = worker.broker.declare(place.name, 0)
    before = {}
    for message in worker.received:
        before[message.properties["correlation_id"]] = seen(message)
        assert worker.move(message, to)
    fetched = worker.fetch(to, count + 1)
    assert len(fetched) == len(before) == count
    for message in fetched:
        assert seen(message) == before[message.properties["correlation_id"]]
        assert HEADER in message.headers
        assert "expiration" not in message.properties
        message.ack()
    assert not worker.decode_errors


def test_celery_makes_the_same_request_of_it(place: Place) -> None:
    app = place.app()
    count = publish_all(app, place)
    worker = place.start(app)
    worker.consume()
    worker.until(lambda: len(worker.received) == count)
    to = worker.broker.declare(place.name, 0)
    before = {}
    for message in worker.received:
        before[message.properties["correlation_id"]] = request_of(message)
        assert worker.move(message, to)
    for message in worker.fetch(to, count):
        assert request_of(message) == before[message.properties["correlation_id"]]
        message.ack()


conversions: Any = strategy  # the type stubs lack its functions


def request_of(message: Any) -> tuple[Any, ...]:
    """The body and the headers of the request that Celery's strategy makes."""
    if "task" in message.headers:
        body, headers = message.payload, message.headers
    else:
        convert = conversions.hybrid_to_proto2 if "args" in message.payload else conversions.proto1_to_proto2
        body, headers, _, _ = convert(message, message.payload)
    return body, original(message, headers).headers


def test_stamps_are_kept(place: Place) -> None:
    app = place.app()

    class Stamped(Task):  # type: ignore[type-arg]
        name = "stamped"

    task = app.register_task(Stamped())
    signature = task.s(1)
    signature.stamp(who="ada", append_stamps=True)
    with app.connection_for_write() as connection:
        signature.apply_async(connection=connection)
    worker = place.start(app)
    worker.consume()
    worker.until(lambda: worker.received)
    (message,) = worker.received
    before = dict(message.headers)
    assert before["stamped_headers"] == ["who"]
    to = worker.broker.declare(place.name, 0)
    assert worker.move(message, to)
    (moved,) = worker.fetch(to, 1)
    assert original(moved).headers == before


def test_notes_of_the_broker_are_not_kept(place: Place) -> None:
    app = place.app()
    notes = {"x-death": [{"count": 1}], "x-delivery-count": 3, "x-first-death-queue": "other", "kept": 1}
    with app.connection_for_write() as connection, app.amqp.Producer(connection.channel()) as producer:
        app.send_task("a.task", headers=notes, producer=producer)
        if not place.is_redis:
            producer.publish("x", routing_key=place.name, user_id="guest", headers={"CC": ["nowhere"]})
    count = 1 if place.is_redis else 2
    worker = place.start(app)
    to = worker.broker.declare(place.name, 0)
    worker.move_all(to, count)
    for message in worker.fetch(to, count):
        assert not {"x-death", "x-first-death-queue", "CC"} & message.headers.keys()
        assert message.headers.get("x-delivery-count", 0) == 0
        assert "user_id" not in message.properties
        message.ack()


def test_what_a_client_writes_into_the_header_is_ignored() -> None:
    good = Origin("k", "q", "e", "r", 1.0, True)
    assert Origin.read({HEADER: good.header()}) == good
    assert Origin.read({HEADER: {**good.header(), "tag": 5, "more": None}}) == good
    bad: list[Any] = [None, 1, "x", [], {}, {**good.header(), "key": 1}, {**good.header(), "since": "now"}]
    for value in bad:
        assert Origin.read({HEADER: value}) is None
    assert Origin.read(None) is None


def test_priorities_on_a_queue_with_priorities(rabbitmq_place: Place) -> None:
    place = rabbitmq_place
    limited: dict[str, Any] = {"x-max-priority": 5, "x-message-ttl": 60_000, "x-max-length": 90}
    place.queue = Queue(place.name, queue_arguments=limited)
    app = place.app()
    with app.connection_for_write() as connection, app.amqp.Producer(connection.channel()) as producer:
        for n, priority in enumerate([0, 5, 2, 5, 0]):
            app.send_task("a.task", task_id=str(n), priority=priority, producer=producer)
    worker = place.start(app)
    to = worker.broker.declare(place.name, 0)
    worker.move_all(to, 5)
    assert [message.headers["id"] for message in worker.fetch(to, 5)] == ["1", "3", "2", "0", "4"]
