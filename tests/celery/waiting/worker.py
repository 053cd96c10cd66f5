"""As much of a Celery worker as the broker's part of waiting needs: a consumer, with or without an event loop."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from celery import Celery
from celery.utils.timer2 import Timer as ThreadTimer
from kombu import Queue
from kombu.asynchronous import Hub

from resilient_tasks.waiting.broker import Broker, Origin, WaitingImpossible, broker_of


def make_app(url: str, queue: Queue, **settings: Any) -> Celery:
    app = Celery("waiting", broker=url, set_as_current=False)
    app.conf.update(task_queues=[queue], task_default_queue=queue.name, broker_connection_retry_on_startup=True)
    app.conf.update(accept_content=["json", "pickle", "yaml"], **settings)
    return app


class Worker:
    """Consumes a queue in the thread that calls :meth:`until`."""

    def __init__(self, app: Celery, *, hub: bool = True, prefetch: int = 100) -> None:
        self.app = app
        self.controller = self
        self.hub: Any = None
        if hub:
            self.hub = Hub()
        self.timer: Any = ThreadTimer() if self.hub is None else self.hub.timer
        if self.hub is not None:  # a turn of the loop ends with a wait, also when what a test waits for is there
            self.timer.call_repeatedly(0.005, lambda: None)
        self.amqheartbeat = 10  # of other connections; nothing here sends any on the consumer's
        self.received: list[Any] = []
        self.on_message: Callable[[Any], object] = self.received.append
        self.decode_errors: list[Any] = []
        self._is_closed = False
        self._pending: deque[Callable[[], object]] = deque()
        self.connect(prefetch)

    def connect(self, prefetch: int) -> None:
        app: Any = self.app
        self.connection: Any = app.connection_for_read(heartbeat=0)
        self.connection.connect()
        if self.hub is not None:
            self.connection.transport.register_with_event_loop(self.connection.connection, self.hub)
        self.connection.default_channel.basic_qos(0, prefetch, False)
        self.task_consumer: Any = app.amqp.TaskConsumer(
            self.connection, on_decode_error=lambda message, error: self.decode_errors.append((message, error))
        )
        self.task_consumer.on_message = self._received
        try:
            self.broker: Broker = broker_of(self)
        except WaitingImpossible:
            self.connection.close()
            raise

    def _received(self, message: Any) -> None:
        self.on_message(message)

    def reconnect(self, prefetch: int = 100) -> None:
        """Go on as Celery does when the connection is lost."""
        self.connection, connection = None, self.connection
        self.broker.close()
        if self.hub is not None:
            with suppress(Exception):  # of what the lost connection had left to do
                self.hub.reset()
        connection.collect()
        self.connect(prefetch)
        self.consume()

    def call_soon(self, function: Callable[..., object], *args: Any) -> None:
        if self.hub is not None:
            self.hub.call_soon(partial(function, *args))
        else:
            self._pending.append(partial(function, *args))

    def consume(self) -> None:
        self.task_consumer.consume()

    def pause(self) -> None:
        self.task_consumer.cancel()

    def until(self, true: Callable[[], object], timeout: float = 20.0) -> None:
        """Run the loop until something is true."""
        deadline = time.monotonic() + timeout
        while not true():
            assert time.monotonic() < deadline, "not in time"
            self.turn()

    def turn(self, wait: float = 2.0) -> None:
        if self.hub is not None:
            self.hub.run_once()
            return
        while self._pending:
            self._pending.popleft()()
        with suppress(TimeoutError):
            self.connection.drain_events(timeout=wait)

    def fetch(self, name: str, count: int) -> list[Any]:
        """Fetch, and wait for all that comes."""
        found: list[Any] = []
        done: list[tuple[int, bool]] = []
        self.broker.fetch(name, count, found.append, lambda *counts: done.append(counts))
        self.until(lambda: done)
        assert done == [(len(found), len(found) < count)]
        return found

    def fetch_any(self, name: str, count: int = 1) -> int:
        """Fetch, and wait; how many came, whatever became of them."""
        done: list[tuple[int, bool]] = []
        self.broker.fetch(name, count, self.received.append, lambda *counts: done.append(counts))
        self.until(lambda: done)
        return done[0][0]

    def move(self, message: Any, to: str, **origin: Any) -> bool:
        """Move one message, and wait until its outcome is known; whether it was moved."""
        moved: list[bool] = []
        self.broker.move(message, to, origin_of(message, **origin), moved.append)
        self.until(lambda: moved)
        return moved[0]

    def move_all(self, to: str, count: int, **origin: Any) -> list[bool]:
        """Consume ``count`` messages, and move each as it comes; whether each was moved."""
        moved: list[bool] = []
        self.on_message = lambda message: self.broker.move(message, to, origin_of(message, **origin), moved.append)
        self.consume()
        self.until(lambda: len(moved) >= count)
        self.on_message = self.received.append
        return moved

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self.broker.close()
        if self.hub is not None:
            self.hub.close()
        self.connection.close()
        if isinstance(self.timer, ThreadTimer) and self.timer.is_alive():
            self.timer.stop()


def origin_of(message: Any, key: str = "key", queue: str = "source", now: float = 1000.0) -> Origin:
    return Origin.of(message, key=key, queue=queue, now=now)


def in_thread(function: Callable[..., object], *args: Any) -> threading.Thread:
    thread = threading.Thread(target=function, args=args)
    thread.start()
    return thread
