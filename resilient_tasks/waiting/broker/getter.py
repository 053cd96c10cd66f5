"""Fetch messages from RabbitMQ by pipelined ``basic.get``.

The channel belongs to the connection that the worker consumes from: what was fetched lives and ends with what was
delivered. py-amqp's own ``basic_get`` waits for its answer, and deliveries would be handled inside of that wait. Here
the answers come in through the event loop, as deliveries do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from amqp import spec

from .base import Fetched, OnMessage, logger
from .errors import described
from .queues import Declaration

DECLARE = "BsbbbbbF"
"""The types of the arguments of ``queue.declare``."""


@dataclass(slots=True, eq=False)
class _Batch:
    name: str
    left: int
    on_message: OnMessage
    on_done: Fetched
    fetched: int = 0
    asked: int = 0


class Getter:
    """Fetches on a channel of its own.

    Args:
        connection: py-amqp's connection, from which the worker consumes.
        message_class: what a message becomes.
        deliver: called with each message and the ``on_message`` of its batch; it raises nothing.
        safely: calls a function with arguments, and raises nothing.
    """

    def __init__(
        self,
        connection: Any,
        message_class: type[Any],
        deliver: Callable[[Any, OnMessage], None],
        safely: Callable[..., None],
    ) -> None:
        self._connection = connection
        self._message_class = message_class
        self._deliver = deliver
        self._safely = safely
        self._expected: deque[_Batch] = deque()
        self._channel: Any = None
        self._open()

    def fetch(self, name: str, declared: Declaration, count: int, on_message: OnMessage, on_done: Fetched) -> None:
        """Ask for up to ``count`` messages. Nothing is waited for.

        The queue is declared once more before that. If it was deleted meanwhile, RabbitMQ would otherwise close the
        channel, and deliver again all that was fetched on it.
        """
        batch = _Batch(name, count, on_message, on_done)
        try:
            if self._channel is None:
                self._open()
            channel = self._channel
            channel.send_method(spec.Queue.Declare, DECLARE, declare_arguments(name, declared, nowait=True))
            for _ in range(count):
                channel.send_method(spec.Basic.Get, "Bsb", (0, name, False))
                self._expected.append(batch)
                batch.asked += 1
        except Exception as error:  # the worker's loop finds out by itself that its connection is lost
            logger.warning("no message could be fetched from %r: %s", name, described(error))
        if batch.asked < count:
            batch.left = batch.asked
            if not batch.asked:
                self._safely(on_done, 0, False)

    def poke(self) -> None:
        """Have RabbitMQ answer something, so that a thread that waits for a delivery goes on. Any thread may call."""
        channel = self._channel
        if channel is not None:
            with suppress(Exception):
                channel.send_method(spec.Basic.Qos, "lBb", (0, 0, False))  # which means nothing without consumers

    def _open(self) -> None:
        """Open a channel without waiting for the answer. RabbitMQ handles a channel's commands in order."""
        channel = self._connection.Channel(self._connection)
        channel.Message = self._message_class
        channel._callbacks[spec.Basic.GetOk] = self._on_message
        channel._callbacks[spec.Basic.GetEmpty] = self._on_empty
        channel._callbacks[spec.Channel.Close] = self._on_closed
        channel.send_method(spec.Channel.Open, "s", ("",))
        self._channel = channel

    def _on_message(
        self, delivery_tag: int, redelivered: bool, exchange: str, routing_key: str, message_count: int, raw: Any
    ) -> None:
        batch = self._expected.popleft()
        batch.fetched += 1
        raw.channel = self._channel
        raw.delivery_info = {
            "delivery_tag": delivery_tag,
            "redelivered": redelivered,
            "exchange": exchange,
            "routing_key": routing_key,
        }
        self._deliver(self._message_class(raw, channel=self._channel), batch.on_message)
        self._answered(batch)

    def _on_empty(self, *_: Any) -> None:
        self._answered(self._expected.popleft())

    def _answered(self, batch: _Batch) -> None:
        batch.left -= 1
        if not batch.left:
            self._safely(batch.on_done, batch.fetched, batch.fetched < batch.asked)

    def _on_closed(self, code: int, text: str, class_id: int, method_id: int) -> None:
        """Go on without what was expected. py-amqp would raise, which ends the worker."""
        logger.error("RabbitMQ closed the channel that fetches, and delivers again what it held: %s %s", code, text)
        channel, self._channel = self._channel, None
        batches, self._expected = dict.fromkeys(self._expected), deque()
        with suppress(Exception):
            channel.send_method(spec.Channel.CloseOk)
        with suppress(Exception):
            channel.collect()
        for batch in batches:
            self._safely(batch.on_done, batch.fetched, False)


def declare_arguments(
    name: str, declared: Declaration | None, *, nowait: bool = False
) -> tuple[int, str, bool, bool, bool, bool, bool, dict[str, Any]]:
    """Return the arguments of ``queue.declare``. If ``declared`` is None, it only asks about the queue."""
    durable, arguments = declared or (False, {})
    return (0, name, declared is None, durable, False, False, nowait, arguments)
