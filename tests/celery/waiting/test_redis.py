"""What is special about waiting queues in Redis."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from kombu import Exchange, Queue

from resilient_tasks.waiting.broker import (
    BrokerUnavailable,
    MoveFailed,
    WaitingImpossible,
    base,
    broker_of,
    original,
)

from .conftest import Place
from .test_moving import ids_of, publish
from .worker import Worker, make_app, origin_of


def moved_to(worker: Worker, place: Place, count: int) -> str:
    to = worker.broker.declare(place.name, 0)
    worker.move_all(to, count)
    return to


def test_what_a_lost_worker_held_returns_to_its_waiting_queue(valkey_place: Place) -> None:
    ids = publish(valkey_place, 3)
    app = valkey_place.app(broker_transport_options={"visibility_timeout": 5, "unacked_restore_throttle": 1})
    lost, other = valkey_place.start(app), valkey_place.start(app)
    to = moved_to(lost, valkey_place, 3)
    fetched = lost.fetch(to, 3)
    assert other.broker.count(to) == 0
    with valkey_place.redis() as client:  # the visibility timeout passes
        assert client.zcard("unacked_index") == 3
        for tag, at in client.zrange("unacked_index", 0, -1, withscores=True):
            client.zadd("unacked_index", {tag: at - 3600})
    other.connection.default_channel.qos.restore_visible(num=10, interval=1)
    assert other.broker.count(to) == 3
    again = other.fetch(to, 3)
    assert sorted(ids_of(again)) == ids
    assert all(original(message).delivery_info["redelivered"] for message in again)
    # the worker was only slow: it moves a message that is not its own any more
    results: list[bool] = []
    lost.broker.move(fetched[0], valkey_place.waiting(1), origin_of(fetched[0]), results.append)
    assert results == [False]
    assert lost.broker.count(valkey_place.waiting(1)) == 0


def test_priorities_and_prefixes(valkey_place: Place) -> None:
    app = valkey_place.app(
        broker_transport_options={"global_keyprefix": "{mine}:", "priority_steps": [0, 2, 5], "sep": ":"}
    )
    for n, priority in enumerate([5, 0, 3, 9, 2, 0]):
        with app.connection_for_write() as connection, app.amqp.Producer(connection.channel()) as producer:
            app.send_task("a.task", task_id=str(n), priority=priority, producer=producer)
    worker = valkey_place.start(app)
    to = moved_to(worker, valkey_place, 6)
    with valkey_place.redis() as client:
        assert {key for key in client.scan_iter() if b"waiting" in key} == {
            f"{{mine}}:{to}{step}".encode() for step in ("", ":2", ":5")
        }
    assert worker.broker.count(to) == 6
    assert worker.broker.peek(to).headers["id"] == "1"
    fetched = worker.fetch(to, 6)
    assert ids_of(fetched) == ["1", "5", "2", "4", "0", "3"]  # as kombu itself consumes them
    fetched[0].ack()
    worker.broker.move(fetched[1], to, origin_of(fetched[1]))
    fetched[2].reject(requeue=True)
    assert worker.broker.count(to) == 2
    with valkey_place.redis() as client:
        assert client.hlen("{mine}:unacked") == 3


def test_an_own_bug_does_not_restart_the_consumer(valkey_place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """kombu takes a KeyError for the loss of the connection to Redis."""
    publish(valkey_place, 3)
    worker = valkey_place.start()
    to = worker.broker.declare(valkey_place.name, 0)
    received: list[Any] = []

    def fail(*_: Any) -> None:
        raise KeyError("a bug")

    def move(message: Any) -> None:
        received.append(message)
        worker.broker.move(message, to, origin_of(message), fail)

    worker.on_message = move
    worker.consume()
    worker.until(lambda: worker.broker.count(to) == 3)
    done: list[Any] = []
    worker.broker.fetch(to, 5, fail, lambda *counts: done.append(counts))
    worker.broker.soon(fail)
    worker.broker.soon(done.append, "later")
    worker.until(lambda: len(done) == 2)
    assert done == [(3, True), "later"]
    assert caplog.text.count("KeyError: 'a bug'") == 7


def test_a_move_that_redis_refuses_leaves_the_message(
    valkey_place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(base, "PAUSE", 0.05)
    publish(valkey_place, 1)
    worker = valkey_place.start()
    to = worker.broker.declare(valkey_place.name, 0)
    with valkey_place.redis() as client:
        client.set(to, "not a queue")
        assert worker.move_all(to, 1) == [False]
        worker.until(lambda: worker.received)
        client.delete(to)
    (message,) = worker.received
    assert "goes back to its queue" in caplog.text
    results: list[bool] = []
    worker.broker.move(message, to, origin_of(message), results.append)
    assert results == [True]


def test_an_acknowledged_message_is_copied_or_the_move_fails(valkey_place: Place) -> None:
    (task_id,) = publish(valkey_place, 1)
    worker = valkey_place.start()
    worker.consume()
    worker.until(lambda: worker.received)
    (message,) = worker.received
    message.ack()
    to = worker.broker.declare(valkey_place.name, 0)
    with valkey_place.redis() as client:
        client.set(to, "not a queue")
        with pytest.raises(MoveFailed, match="WRONGTYPE"):
            worker.broker.move(message, to, origin_of(message))
        client.delete(to)
    worker.broker.move(message, to, origin_of(message))
    assert ids_of(worker.fetch(to, 2)) == [task_id]


def test_a_message_of_an_old_connection_is_not_moved(valkey_place: Place) -> None:
    ids = publish(valkey_place, 2)
    worker = valkey_place.start()
    worker.consume()
    worker.until(lambda: len(worker.received) == 2)
    old = list(worker.received)
    worker.broker.close()
    worker.connection.close()  # by which kombu restores what it held
    worker.connect(100)
    to = worker.broker.declare(valkey_place.name, 0)
    results: list[bool] = []
    worker.broker.move(old[0], to, origin_of(old[0]), results.append)
    assert results == [False]
    assert worker.broker.count(to) == 0
    worker.consume()
    worker.until(lambda: len(worker.received) == 4)
    assert sorted(ids_of(worker.received[2:])) == ids


def test_a_message_that_can_not_be_read_harms_no_other(valkey_place: Place, caplog: pytest.LogCaptureFixture) -> None:
    (task_id,) = publish(valkey_place, 1)
    worker = valkey_place.start()
    to = moved_to(worker, valkey_place, 1)
    with valkey_place.redis() as client:
        client.rpush(to, "nonsense")
        found: list[Any] = []
        worker.broker.fetch(to, 2, found.append)
        assert ids_of(found) == [task_id]
        assert client.hlen("unacked") == 2
    assert "can't be read" in caplog.text


def test_where_waiting_is_impossible(valkey_place: Place) -> None:
    worker = valkey_place.start()
    queues = worker.app.amqp.queues
    queues.add(Queue("broadcast", Exchange("b", type="fanout")))
    queues.add(Queue("mine", exclusive=True))
    queues.add(Queue("unheeded", no_ack=True))
    for name, why in [("broadcast", "broadcast"), ("mine", "connection"), ("unheeded", "no_ack"), ("x", "not know")]:
        with pytest.raises(WaitingImpossible, match=why):
            worker.broker.declare(name, 0)
    memory = make_app("memory://", valkey_place.queue)
    with memory.connection_for_read() as connection:
        worker.connection, connection_before = connection, worker.connection
        with pytest.raises(WaitingImpossible, match="'memory'"):
            broker_of(worker)
        worker.connection = connection_before
    app = valkey_place.app(broker_transport_options={"ack_emulation": False})
    with pytest.raises(WaitingImpossible, match="ack_emulation"):
        valkey_place.start(app)


def test_without_rights_to_the_waiting_queue(valkey_place: Place) -> None:
    keys = [valkey_place.name, f"{valkey_place.name}??[0-9]", "unacked*", "_kombu*"]
    with valkey_place.redis() as client:
        client.acl_setuser("poor", enabled=True, passwords=["+pw"], keys=keys, channels=["*"], categories=["+@all"])
    app = make_app(valkey_place.url.replace("redis://", "redis://poor:pw@"), valkey_place.queue)
    worker = valkey_place.start(app)
    with pytest.raises(WaitingImpossible, match=r"Redis refuses it: .*[Pp]ermission"):
        worker.broker.declare(valkey_place.name, 0)


def test_a_broker_that_is_away_is_unavailable(valkey_place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = valkey_place.start()

    def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionError("away")

    monkeypatch.setattr(worker.broker._client.connection_pool, "get_connection", refuse)  # type: ignore[attr-defined]
    to = valkey_place.waiting(0)
    for ask in (worker.broker.count, worker.broker.exists, worker.broker.peek):
        with pytest.raises(BrokerUnavailable, match="away"):
            ask(to)
    with pytest.raises(BrokerUnavailable, match="away"):
        worker.broker.declare(valkey_place.name, 0)
    done: list[Any] = []
    worker.broker.fetch(to, 5, done.append, lambda *counts: done.append(counts))
    assert done == [(0, False)]


def test_a_moved_message_is_the_same(valkey_place: Place) -> None:
    """Byte by byte as it is in Redis, but for what names the delivery."""
    app = valkey_place.app()
    with app.connection_for_write() as connection, app.amqp.Producer(connection.channel()) as producer:
        app.send_task("a.task", ("ä",), compression="gzip", reply_to="here", priority=3, expires=60, producer=producer)
    with valkey_place.redis() as client:
        (key,) = client.keys(f"{valkey_place.name}*")
        before = json.loads(client.lindex(key, 0))
        worker = valkey_place.start()
        to = moved_to(worker, valkey_place, 1)
        after = json.loads(client.lindex(key.replace(valkey_place.name.encode(), to.encode()), 0))
    assert before["properties"].pop("expiration")
    assert before["properties"].pop("delivery_tag") != after["properties"].pop("delivery_tag")
    assert before["properties"].pop("delivery_info") != after["properties"].pop("delivery_info")
    header = after["headers"].pop("resilience_waiting")
    assert header["since"] <= time.time()
    assert before == after
