"""Messages are moved to waiting queues and fetched from there, on every broker."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from resilient_tasks.waiting.broker import original

from .conftest import Place
from .worker import Worker, in_thread

SOME = 1_000


def publish(place: Place, count: int, app: Any = None, **options: Any) -> list[str]:
    """Publish tasks; their ids, in order."""
    app = app or place.app()
    ids = [f"{place.name}-{n}" for n in range(count)]
    with app.connection_for_write() as connection, app.amqp.Producer(connection.channel()) as producer:
        for n, task_id in enumerate(ids):
            app.send_task("a.task", (n,), task_id=task_id, producer=producer, **options)
    return ids


def ids_of(messages: list[Any]) -> list[str]:
    return [message.headers["id"] for message in messages]


def test_a_thousand_messages_are_moved_and_fetched_in_order(place: Place) -> None:
    ids = publish(place, SOME)
    worker = place.start()
    to = worker.broker.declare(place.name, 0)
    assert to == place.waiting(0)
    assert worker.move_all(to, SOME, queue=place.name) == [True] * SOME
    assert worker.broker.count(to) == SOME
    assert worker.broker.exists(to)
    fetched = [message for _ in range(0, SOME, 50) for message in worker.fetch(to, 50)]
    assert ids_of(fetched) == ids
    for message in fetched:
        assert not message.acknowledged
        message.ack()
    assert worker.fetch(to, 3) == []
    assert worker.received == []


def test_a_fetched_message_is_put_back_into_its_waiting_queue(place: Place) -> None:
    ids = publish(place, 3)
    worker = place.start()
    to = worker.broker.declare(place.name, 7)
    worker.move_all(to, 3)
    message, *others = worker.fetch(to, 3)
    message.reject(requeue=True)
    others[0].reject()
    others[1].ack()
    worker.until(lambda: worker.broker.count(to) == 1)
    (again,) = worker.fetch(to, 2)
    assert ids_of([again]) == ids[:1]
    assert original(again).delivery_info["redelivered"]
    again.ack()
    assert worker.broker.count(to) == 0


def test_a_run_sees_its_source_queue(place: Place) -> None:
    publish(place, 1, headers={"mine": 1})
    worker = place.start()
    worker.consume()
    worker.until(lambda: worker.received)
    (first,) = worker.received
    before = original(first)
    assert before.origin is None
    assert before.headers == first.headers
    to = worker.broker.declare(place.name, 0)
    assert worker.move(first, to, key="a", queue=place.name, now=12.5)
    (moved,) = worker.fetch(to, 1)
    seen = original(moved)
    assert seen.origin is not None
    assert (seen.origin.key, seen.origin.queue, seen.origin.since) == ("a", place.name, 12.5)
    names = ("exchange", "routing_key")
    assert [seen.delivery_info[name] for name in names] == [before.delivery_info[name] for name in names]
    assert seen.headers == before.headers
    assert moved.delivery_info["routing_key"] == to
    # it waits for something else now
    other = worker.broker.declare(place.name, 1)
    assert worker.move(moved, other, key="b", queue="elsewhere", now=99.0)
    (again,) = worker.fetch(other, 1)
    assert original(again).origin == replace(seen.origin, key="b")
    assert original(again).headers == before.headers
    again.ack()


def test_a_peek_takes_nothing(place: Place) -> None:
    ids = publish(place, 3)
    worker = place.start()
    to = worker.broker.declare(place.name, 0)
    assert worker.broker.peek(to) is None
    assert worker.broker.peek(place.waiting(5)) is None
    assert not worker.broker.exists(place.waiting(5))
    assert worker.broker.count(place.waiting(5)) == 0
    worker.move_all(to, 3, key="k")
    for _ in range(30):
        head = worker.broker.peek(to)
        assert head.headers["id"] == ids[0]
        assert head.payload[0] == [0]
        origin = original(head).origin
        assert origin is not None
        assert origin.key == "k"
    worker.until(lambda: worker.broker.count(to) == 3)
    assert ids_of(worker.fetch(to, 3)) == ids


def test_a_message_is_moved_back(place: Place) -> None:
    """As before an uninstall: a worker without this library sees nothing of the wait."""
    ids = publish(place, 5)
    worker = place.start()
    worker.consume()
    worker.until(lambda: len(worker.received) == 5)
    first, *_ = worker.received
    with pytest.raises(ValueError, match="has not waited"):
        worker.broker.move_back(first)
    before = first.headers.copy(), first.properties["correlation_id"], place.is_redis and first.delivery_info
    worker.pause()
    to = worker.broker.declare(place.name, 0)
    for message in worker.received:
        assert worker.move(message, to, queue=place.name)
    moved: list[bool] = []
    for message in worker.fetch(to, 5):
        worker.broker.move_back(message, moved.append)
    assert moved == [True] * 5
    worker.received.clear()
    worker.consume()
    worker.until(lambda: len(worker.received) == 5)
    assert ids_of(worker.received) == ids
    again = worker.received[0]
    headers = {name: value for name, value in again.headers.items() if name != "x-delivery-count"}
    assert (headers, again.properties["correlation_id"], place.is_redis and again.delivery_info) == before
    assert worker.broker.count(to) == 0


def test_without_an_event_loop(place: Place) -> None:
    """As with the pools of threads and greenlets: other threads hand their calls over, and these are made soon."""
    ids = publish(place, 50)
    worker = place.start(hub=False)
    to = worker.broker.declare(place.name, 0)
    assert worker.move_all(to, 50) == [True] * 50
    found: list[Any] = []

    def fetch(worker: Worker = worker) -> None:
        worker.broker.soon(worker.broker.fetch, to, 50, found.append)

    began = time.monotonic()
    thread = in_thread(fetch)
    worker.turn(wait=20.0)  # which blocks until the other thread's call
    assert time.monotonic() - began < 10
    worker.until(lambda: len(found) == 50)
    thread.join()
    assert ids_of(found) == ids
