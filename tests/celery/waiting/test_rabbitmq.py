"""What is special about waiting queues in RabbitMQ."""

from __future__ import annotations

import itertools
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import amqp
import pytest
from kombu import Queue

from resilient_tasks.waiting.broker import (
    BrokerUnavailable,
    MoveFailed,
    WaitingImpossible,
    base,
    publisher,
)
from resilient_tasks.waiting.broker.queues import declaration_for
from tests import servers
from tests.servers import _rabbitmqctl, eventually

from .conftest import Place
from .test_kills import everywhere
from .test_moving import ids_of, publish
from .worker import Worker, make_app, origin_of


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "_REST", 0.05)
    monkeypatch.setattr(base, "PAUSE", 0.05)


def the_first(worker: Worker, count: int = 1) -> list[Any]:
    worker.consume()
    worker.until(lambda: len(worker.received) >= count)
    found, worker.received[:] = list(worker.received), []
    return found


def cut(worker: Worker) -> None:
    """Cut the connection that moves messages."""
    client = worker.broker._publisher._client  # type: ignore[attr-defined]
    client.connection.sock.shutdown(socket.SHUT_RDWR)


def delete(place: Place, name: str) -> None:
    with place.app().connection_for_write() as connection:
        connection.channel().queue_delete(name)


def unacknowledged(place: Place) -> int:
    columns = ["list_queues", "-p", place.url.rpartition("/")[2], "name", "messages_unacknowledged"]
    listed = subprocess.run(["rabbitmqctl", "-q", *columns], check=True, capture_output=True, text=True, timeout=60)
    return int(dict(line.split("\t") for line in listed.stdout.splitlines())[place.name])


@contextmanager
def policy(place: Place, name: str, definition: str) -> Iterator[None]:
    vhost = place.url.rpartition("/")[2]
    _rabbitmqctl("set_policy", "-p", vhost, name, f"^{name}$", definition)
    try:
        yield
    finally:
        _rabbitmqctl("clear_policy", "-p", vhost, name)


def test_the_connection_that_moves_is_cut(amqp_place: Place) -> None:
    ids = publish(amqp_place, 300)
    worker = amqp_place.start()
    to = worker.broker.declare(amqp_place.name, 0)
    results: list[bool] = []

    moves = itertools.count(1)

    def move(message: Any) -> None:
        worker.broker.move(message, to, origin_of(message), results.append)
        if next(moves) in (60, 160):
            cut(worker)

    worker.on_message = move
    worker.consume()
    worker.until(lambda: results.count(True) >= 300)
    worker.until(lambda: not worker.broker._publisher._unconfirmed)  # type: ignore[attr-defined]
    worker.close()
    counts = everywhere(amqp_place)
    assert counts.keys() == set(ids)
    assert results.count(False) > 0
    assert sum(counts.values()) <= 300 + results.count(False)


def test_all_connections_are_cut(rabbitmq_place: Place) -> None:
    place = rabbitmq_place
    ids = publish(place, 300)
    worker = place.start()
    to = worker.broker.declare(place.name, 0)
    results: list[bool] = []
    cuts = iter([100])
    worker.on_message = lambda message: worker.broker.move(message, to, origin_of(message), results.append)
    worker.consume()

    def all_moved() -> bool:
        if next(cuts, None) is not None:
            _rabbitmqctl("close_all_connections", "--vhost", place.url.rpartition("/")[2], "a test")
        return worker.broker.count(place.name) == 0 and results.count(True) >= 200

    done = False
    while not done:
        try:
            worker.until(all_moved)
            done = True
        except (amqp.ConnectionError, OSError):
            worker.reconnect()
        except BrokerUnavailable:
            pass
    worker.pause()
    worker.close()
    assert everywhere(place).keys() == set(ids)


def test_a_deleted_waiting_queue(amqp_place: Place, caplog: pytest.LogCaptureFixture) -> None:
    ids = publish(amqp_place, 20)
    worker = amqp_place.start()
    to = worker.broker.declare(amqp_place.name, 0)
    delete(amqp_place, to)
    results: list[bool] = []
    worker.on_message = lambda message: worker.broker.move(message, to, origin_of(message), results.append)
    worker.consume()
    worker.until(
        lambda: results.count(True) == 20
    )  # those that returned came back to the source queue, and moved again
    assert "was deleted" in caplog.text
    assert False in results
    assert sorted(ids_of(worker.fetch(to, 30))) == sorted(ids)
    delete(amqp_place, to)
    assert worker.fetch(to, 3) == []  # it is declared again
    assert worker.broker.exists(to)


def test_a_queue_that_refuses(rabbitmq_place: Place) -> None:
    publish(rabbitmq_place, 2)
    worker = rabbitmq_place.start()
    to = worker.broker.declare(rabbitmq_place.name, 0)
    first, second = the_first(worker, 2)
    with policy(rabbitmq_place, to, '{"max-length": 1, "overflow": "reject-publish"}'):
        assert worker.move(first, to)
        assert not worker.move(second, to)
        (again,) = the_first(worker)
        assert ids_of([again]) == ids_of([second])
        again.ack()
        worker.consume()
    (waits,) = worker.fetch(to, 1)
    waits.ack()


def test_an_acknowledged_message_is_copied_or_the_move_fails(amqp_place: Place) -> None:
    publish(amqp_place, 1)
    worker = amqp_place.start()
    to = worker.broker.declare(amqp_place.name, 0)
    (message,) = the_first(worker)
    message.ack()
    worker.broker.move(message, to, origin_of(message))
    assert worker.broker.count(to) == 1
    delete(amqp_place, to)
    with pytest.raises(MoveFailed, match="did not confirm"):
        worker.broker.move(message, to, origin_of(message))
    with pytest.raises(MoveFailed, match="not the name of a waiting queue"):
        worker.broker.move(message, "elsewhere", origin_of(message))
    worker.broker.move(message, to, origin_of(message))
    assert ids_of(worker.fetch(to, 2)) == ids_of([message])


def test_a_message_that_amqp_can_not_carry_goes_back(rabbitmq_place: Place, caplog: pytest.LogCaptureFixture) -> None:
    ids = publish(rabbitmq_place, 2)
    worker = rabbitmq_place.start()
    to = worker.broker.declare(rabbitmq_place.name, 0)
    first, second = the_first(worker, 2)
    first.headers["broken"] = object()
    assert not worker.move(first, to)
    assert worker.move(second, to)
    assert "can't be moved" in caplog.text
    (again,) = the_first(worker)
    assert worker.move(again, to)
    assert ids_of(worker.fetch(to, 2)) == ids[::-1]


def test_moves_wait_while_rabbitmq_is_out_of_memory(rabbitmq_place: Place) -> None:
    publish(rabbitmq_place, 3)
    worker = rabbitmq_place.start()
    to = worker.broker.declare(rabbitmq_place.name, 0)
    own: Any = worker.broker._publisher  # type: ignore[attr-defined]
    results: list[bool] = []
    messages = the_first(worker, 3)
    own._on_blocked("low on memory")  # which RabbitMQ says at the first message that it does not take
    for message in messages:
        worker.broker.move(message, to, origin_of(message), results.append)
    with pytest.raises(BrokerUnavailable, match="out of memory"):
        worker.broker.count(to)
    assert results == []
    own._on_unblocked()
    worker.until(lambda: results == [True] * 3)
    assert worker.broker.count(to) == 3


@pytest.mark.whole
def test_rabbitmq_runs_out_of_memory(tmp_path: Path) -> None:
    """A RabbitMQ of the test's own does so: it reads nothing more from connections that publish."""
    with servers.rabbitmq_node(tmp_path) as (url, start):
        start()
        node = f"test{url.rpartition(':')[2].strip('/')}@localhost"

        def watermark(share: str) -> None:
            cookie = (tmp_path / ".erlang.cookie").read_text()
            _rabbitmqctl("-n", node, "--erlang-cookie", cookie, "set_vm_memory_high_watermark", share)

        place = Place("rabbitmq", url, Queue("q"), lambda app=None: Worker(app or place.app()))
        ids = publish(place, 60)
        worker = place.start()
        to = worker.broker.declare("q", 0)
        messages = the_first(worker, 60)
        results: list[bool] = []
        watermark("0.0000001")
        for message in messages[:10]:
            worker.broker.move(message, to, origin_of(message), results.append)
        worker.until(lambda: worker.broker._publisher._blocked)  # type: ignore[attr-defined]
        for message in messages[10:50]:
            worker.broker.move(message, to, origin_of(message), results.append)
        with pytest.raises(BrokerUnavailable, match="out of memory"):
            worker.broker.count(to)
        for message in messages[50:]:  # acknowledgements pass
            message.ack()
        assert len(results) < 50
        watermark("0.4")
        worker.until(lambda: results == [True] * 50)
        assert ids_of(worker.fetch(to, 60)) == ids[:50]
        worker.close()
        assert not everywhere(place).keys() & set(ids[50:])


def test_rabbitmq_can_not_be_reached(rabbitmq_place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(rabbitmq_place, 1)
    worker = rabbitmq_place.start()
    to = worker.broker.declare(rabbitmq_place.name, 0)
    (message,) = the_first(worker)
    with monkeypatch.context() as patch:
        patch.setattr(socket.socket, "connect", lambda *_: (_ for _ in ()).throw(ConnectionRefusedError("no")))
        cut(worker)
        assert not worker.move(message, to)
        with pytest.raises(BrokerUnavailable):
            worker.broker.peek(to)
        with pytest.raises(BrokerUnavailable, match="a moment ago"):
            worker.broker.count(to)
    (again,) = the_first(worker)
    worker.broker._publisher._not_before = 0  # type: ignore[attr-defined] # a while later
    assert worker.move(again, to)


def test_the_channel_that_fetches_is_closed(rabbitmq_place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """RabbitMQ does so if a message is held for longer than its consumer_timeout."""
    ids = publish(rabbitmq_place, 3)
    worker = rabbitmq_place.start()
    to = worker.broker.declare(rabbitmq_place.name, 0)
    worker.move_all(to, 3)
    (first,) = worker.fetch(to, 1)
    channel = worker.broker._getter._channel  # type: ignore[attr-defined]
    channel.basic_ack(99)  # an unknown tag, which closes the channel
    done: list[Any] = []
    worker.broker.fetch(to, 2, done.append, lambda *counts: done.append(counts))
    worker.until(lambda: (0, False) in done)
    assert "closed the channel that fetches" in caplog.text
    results: list[bool] = []
    worker.broker.move(first, to, origin_of(first), results.append)
    assert results == [False]  # it is not the worker's any more
    assert ids_of(worker.fetch(to, 3)) == ids


def test_a_body_that_can_not_be_decompressed(rabbitmq_place: Place) -> None:
    place = rabbitmq_place
    worker = place.start()
    to = worker.broker.declare(place.name, 0)
    with place.app().connection_for_write() as connection:
        bad = {"compression": "application/x-gzip"}
        connection.Producer().publish(b"nonsense", routing_key=place.name, headers=bad)
    worker.consume()
    worker.until(lambda: worker.decode_errors)
    ((message, _),) = worker.decode_errors
    assert worker.move(message, to)
    assert worker.fetch_any(to) == 1
    assert len(worker.decode_errors) == 2


def test_where_waiting_is_impossible(rabbitmq_place: Place) -> None:
    place = rabbitmq_place
    worker = place.start()
    with place.app().connection_for_write() as connection:
        connection.channel().queue_declare(place.waiting(3), durable=False, auto_delete=False)
    with pytest.raises(WaitingImpossible, match=r"RabbitMQ refuses it.*durable"):
        worker.broker.declare(place.name, 3)
    assert worker.broker.declare(place.name, 4)  # the connection goes on
    queues = worker.app.amqp.queues
    queues.add(Queue("stream", queue_arguments={"x-queue-type": "stream"}))
    queues.add(Queue("l" * 250))
    for name, why in [("stream", "stream"), ("l" * 250, "too long")]:
        with pytest.raises(WaitingImpossible, match=why):
            worker.broker.declare(name, 0)
    with pytest.raises(WaitingImpossible, match="does not know"):
        worker.broker.fetch("other.waiting.0", 1, print)


def test_without_the_right_to_declare(rabbitmq_place: Place) -> None:
    place = rabbitmq_place
    vhost = place.url.rpartition("/")[2]
    publish(place, 1)
    _rabbitmqctl("add_user", f"poor-{vhost}", "pw")
    try:
        _rabbitmqctl("set_permissions", "-p", vhost, f"poor-{vhost}", f"^{place.name}$", ".*", ".*")
        app = make_app(place.url.replace("guest:guest", f"poor-{vhost}:pw"), place.queue)
        worker = place.start(app)
        with pytest.raises(WaitingImpossible, match=r"RabbitMQ refuses it.*ACCESS_REFUSED"):
            worker.broker.declare(place.name, 0)
        (message,) = the_first(worker)
        assert not worker.move(message, place.waiting(0))
        the_first(worker)
        worker.close()
    finally:
        _rabbitmqctl("delete_user", f"poor-{vhost}")


def test_what_a_waiting_queue_copies() -> None:
    never = {"x-message-ttl": 1, "x-max-length": 1, "x-expires": 1, "x-dead-letter-exchange": "d", "x-overflow": "o"}
    classic = Queue("c", durable=False, auto_delete=True, queue_arguments={**never, "x-max-priority": 9}, expires=5)
    quorum = Queue("q", queue_arguments={**never, "x-queue-type": "quorum"}, message_ttl=5)
    both: Any = {"c": classic, "q": quorum, "p": Queue("p", max_priority=3)}
    assert declaration_for(both, "c") == (False, {"x-max-priority": 9})
    assert declaration_for(both, "q") == (True, {"x-queue-type": "quorum", "x-delivery-limit": 2**31 - 1})
    assert declaration_for(both, "p") == (True, {"x-max-priority": 3})


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_the_type_may_be_the_virtual_host_s(rabbitmq_place: Place, kind: str) -> None:
    vhost = f"{rabbitmq_place.url.rpartition('/')[2]}-{kind}"
    _rabbitmqctl("add_vhost", vhost, "--default-queue-type", kind)
    try:
        _rabbitmqctl("set_permissions", "-p", vhost, "guest", ".*", ".*", ".*")
        place = replace(rabbitmq_place, url=f"{rabbitmq_place.url}-{kind}", queue=Queue(rabbitmq_place.name))
        ids = publish(place, 3)
        worker = rabbitmq_place.start(place.app())
        to = worker.broker.declare(place.name, 0)
        worker.move_all(to, 3)
        for _ in range(3):  # a quorum queue without a delivery limit would put the message to its end
            assert ids_of([worker.broker.peek(to)]) == ids[:1]
        assert ids_of(worker.fetch(to, 3)) == ids
        worker.close()
    finally:
        _rabbitmqctl("delete_vhost", vhost)


def test_nothing_is_there_twice_after_a_clean_stop(amqp_place: Place) -> None:
    ids = publish(amqp_place, 100)
    worker = amqp_place.start()
    to = worker.broker.declare(amqp_place.name, 0)
    for message in the_first(worker, 100):
        worker.broker.move(message, to, origin_of(message))
    worker.broker.close()  # with confirms under way
    eventually(lambda: not unacknowledged(amqp_place))  # of a quorum queue, a closing channel loses the last ones
    worker.close()
    assert everywhere(amqp_place) == dict.fromkeys(ids, 1)


def test_a_source_queue_that_is_gone(rabbitmq_place: Place) -> None:
    publish(rabbitmq_place, 1)
    worker = rabbitmq_place.start()
    to = worker.broker.declare(rabbitmq_place.name, 0)
    worker.move_all(to, 1, queue=rabbitmq_place.name)
    (message,) = worker.fetch(to, 1)
    worker.pause()
    delete(rabbitmq_place, rabbitmq_place.name)
    results: list[bool] = []
    worker.broker.move_back(message, results.append)
    assert results == [False]
    worker.until(lambda: worker.broker.count(to) == 1)


@pytest.mark.parametrize("reader", ["the event loop", "a question"])
def test_the_channel_that_moves_is_closed(rabbitmq_place: Place, reader: str) -> None:
    """RabbitMQ does so if a message is larger than it allows."""
    ids = publish(rabbitmq_place, 10)
    worker = rabbitmq_place.start()
    to = worker.broker.declare(rabbitmq_place.name, 0)
    results: list[bool] = []
    messages = the_first(worker, 10)
    own: Any = worker.broker._publisher  # type: ignore[attr-defined]
    own._publishing.send_method(amqp.spec.Basic.Publish, "Bssbb", (0, "nowhere", "x", False, False), amqp.Message("x"))
    for message in messages:
        worker.broker.move(message, to, origin_of(message), results.append)
    if reader == "a question":
        with pytest.raises(BrokerUnavailable, match="closed the channel"):
            worker.broker.count(to)
    worker.until(lambda: len(results) == 10)
    assert results == [False] * 10
    again = the_first(worker, 10)
    assert [worker.move(message, to) for message in again] == [True] * 10
    assert sorted(ids_of(worker.fetch(to, 20))) == sorted(ids)
