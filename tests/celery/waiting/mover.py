"""A worker that moves what it gets, or fetches what waits, until it is killed at a marked point.

Arguments: the broker's URL, the queue's name, its type, ``move`` or ``fetch``, the point, and at which message.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from kombu import Queue

from .worker import Worker, make_app, origin_of


def die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Points:
    """Kill this process around the ``at``-th call of a function."""

    def __init__(self, point: str, at: int) -> None:
        self.point, self.at = point, at

    def around(self, target: Any, name: str, point: str, match: Callable[..., bool] = lambda *_: True) -> None:
        call, calls = getattr(target, name), 0

        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += match(*args)
            here = calls == self.at and match(*args)
            if here and self.point == f"before {point}":
                die()
            result = call(*args, **kwargs)
            if here and self.point == f"after {point}":
                die()
            return result

        setattr(target, name, counted)


def main(url: str, name: str, kind: str, what: str, point: str, at: str) -> None:
    arguments = {} if kind == "valkey" else {"x-queue-type": "quorum" if kind == "quorum" else "classic"}
    worker = Worker(make_app(url, Queue(name, queue_arguments=arguments)))
    broker: Any = worker.broker
    to = broker.declare(name, 0)
    points = Points(point, int(at))
    if kind == "valkey":
        from redis.connection import Connection

        def is_script(_: Any, command: Any, *__: Any) -> bool:
            return any(b"EVALSHA" in bytes(part) for part in command)

        points.around(Connection, "send_packed_command", "the command is sent", is_script)
        points.around(broker, f"_{what}_script", "the script")
    else:
        from resilient_tasks.waiting.broker.publisher import Publisher

        points.around(Publisher, "publish", "the publish")
        points.around(Publisher, "_take", "the confirm")
        points.around(worker.task_consumer.channel, "basic_ack", "the acknowledgement")
    if what == "move":
        worker.on_message = lambda message: broker.move(message, to, origin_of(message))
        worker.consume()
    else:
        points.around(worker, "on_message", "the message")
        broker.fetch(to, 20, worker.on_message)
    while True:
        worker.turn()


main(*sys.argv[1:])
