"""A worker is killed at every step of a move and of a fetch: nothing is lost, and on Redis nothing is there twice."""

from __future__ import annotations

import collections
import json
import signal

import pytest

from tests.servers import Process, eventually, redeliver

from .conftest import Place
from .test_moving import publish

FEW = 40
REDIS_POINTS = ["before the command is sent", "after the command is sent", "after the script"]
AMQP_POINTS = [
    *("before the publish", "after the publish", "before the confirm", "before the acknowledgement"),
    "after the acknowledgement",
]


def everywhere(place: Place) -> collections.Counter[str]:
    """How often each task is in the broker, once what a killed worker held is there again."""
    if place.is_redis:
        redeliver(place.app())
        with place.redis() as client:
            assert not client.hlen("unacked")
            assert not client.zcard("unacked_index")
            lists = [client.lrange(name, 0, -1) for name in (place.name, place.waiting(0))]
        return collections.Counter(json.loads(raw)["headers"]["id"] for found in lists for raw in found)
    found: list[str] = []
    with place.app().connection_for_read() as connection:
        for name in (place.name, place.waiting(0)):
            channel = connection.channel()
            while (message := channel.basic_get(name, no_ack=True)) is not None:
                found.append(channel.message_to_python(message).headers["id"])
    return collections.Counter(found)


def killed(place: Place, what: str, point: str, at: int) -> None:
    with Process.python(
        "-m", "tests.celery.waiting.mover", place.url, place.name, place.kind, what, point, str(at)
    ) as process:
        assert process.popen.wait(60) == -signal.SIGKILL, process.output


@pytest.mark.parametrize("point", REDIS_POINTS)
def test_killed_while_moving_on_redis(valkey_place: Place, point: str) -> None:
    ids = publish(valkey_place, FEW)
    killed(valkey_place, "move", point, 10)
    assert everywhere(valkey_place) == dict.fromkeys(ids, 1)


@pytest.mark.parametrize("point", REDIS_POINTS)
def test_killed_while_fetching_on_redis(valkey_place: Place, point: str) -> None:
    ids = publish(valkey_place, FEW)
    worker = valkey_place.start()
    worker.move_all(worker.broker.declare(valkey_place.name, 0), FEW)
    killed(valkey_place, "fetch", point, 1)
    assert everywhere(valkey_place) == dict.fromkeys(ids, 1)


@pytest.mark.parametrize("point", AMQP_POINTS)
def test_killed_while_moving_on_rabbitmq(amqp_place: Place, point: str) -> None:
    ids = publish(amqp_place, FEW)
    killed(amqp_place, "move", point, 1 if "confirm" in point else 10)  # one may confirm all
    found: collections.Counter[str] = collections.Counter()

    def all_there() -> bool:  # RabbitMQ may see only later that the worker is gone
        found.update(everywhere(amqp_place))
        return found.keys() == set(ids)

    eventually(all_there)


def test_killed_while_fetching_on_rabbitmq(amqp_place: Place) -> None:
    ids = publish(amqp_place, FEW)
    worker = amqp_place.start()
    to = worker.broker.declare(amqp_place.name, 0)
    worker.move_all(to, FEW)
    killed(amqp_place, "fetch", "after the message", 5)
    eventually(lambda: worker.broker.count(to) == FEW)
    assert everywhere(amqp_place) == dict.fromkeys(ids, 1)
