"""Waiting queues in RabbitMQ, through py-amqp.

A message is published to its waiting queue, and acknowledged when RabbitMQ has confirmed the copy. So if the worker is
killed or its connection is cut, nothing is lost, and some messages may be there twice.
"""

from __future__ import annotations

from typing import Any

import amqp
from amqp import spec
from kombu.transport.pyamqp import Message

from .base import Broker, Fetched, Moved, OnMessage, ignore, logger
from .copying import Origin, headers_to_move, properties_to_move
from .errors import MoveFailed, WaitingImpossible, described
from .getter import DECLARE, Getter, declare_arguments
from .publisher import PATIENCE, Move, Publisher
from .queues import Declaration, as_quorum, declaration_for, source_and_number, waiting_name


class AmqpBroker(Broker):
    """Waiting queues in RabbitMQ."""

    def __init__(self, consumer: Any) -> None:
        super().__init__(consumer)
        self._channel.Message = _MessageAsItCame
        self._publisher = Publisher(consumer, self._settle)
        self._getter = Getter(consumer.connection.connection, _MessageAsItCame, self._deliver, self._safely)
        self._declared: dict[str, Declaration] = {}
        self._quorum_by_default: bool | None = None

    def close(self) -> None:
        """Wait for the confirms that are under way, if the consumer is still connected, and close the connection."""
        consumer_connection = self._consumer.connection
        alive = consumer_connection is not None and consumer_connection.connected
        self._publisher.close(PATIENCE / 2 if alive else 0)
        super().close()

    def move(self, message: Any, to: str, origin: Origin, on_done: Moved = ignore) -> None:
        """Publish a message to ``to``, and acknowledge it when RabbitMQ has confirmed the copy."""
        self._move(message, to, origin, on_done)

    def move_back(self, message: Any, on_done: Moved = ignore) -> None:
        """Publish a message to its source queue, through the default exchange, and wait for the confirm."""
        self._move(message, self._origin(message).queue, None, on_done)

    def _move(self, message: Any, to: str, origin: Origin | None, on_done: Moved) -> None:
        acknowledged = message.acknowledged
        if not acknowledged and not self._is_held(message):
            self._safely(on_done, False)
            return
        move = Move(message, to, on_done)
        try:
            if origin is not None:
                self._ensure(to)
            headers = headers_to_move(message.headers, origin)
            properties = properties_to_move(message.properties)
            properties.pop("application_headers", None)
        except Exception as error:
            if acknowledged:
                raise MoveFailed(f"an acknowledged message could not be moved to {to!r}: {described(error)}") from error
            logger.warning("a message could not be moved to %r, and goes back to its queue: %s", to, described(error))
            move.moved = False
            self._settle(move)
            return
        body = getattr(message, "body_as_it_came", None)
        if body is None:  # it came before this broker was made
            body = message.body
            headers.pop("compression", None)
        self._publisher.publish(move, body, properties, headers)
        if acknowledged or origin is None or self._consumer.hub is None:
            self._publisher.wait_for(move)
        if acknowledged and not move.moved:
            raise MoveFailed(f"an acknowledged message could not be moved to {to!r}: RabbitMQ did not confirm it")

    def _settle(self, move: Move) -> None:
        message = move.message
        if move.returned:
            logger.warning("the queue %r was deleted; a message that was moved there goes back to its queue", move.to)
            self._declared.pop(move.to, None)
        if message.acknowledged:  # it was already when it was moved
            pass
        elif not move.moved:
            self._put_back(message, at_once=move.returned)
        elif self._is_held(message):
            try:
                message.ack()
            except Exception as error:
                logger.warning("a moved message could not be acknowledged, and is there twice: %s", described(error))
        self._safely(move.on_done, bool(move.moved))

    def fetch(self, name: str, count: int, on_message: OnMessage, on_done: Fetched = ignore) -> None:
        """Ask for messages, which arrive later through the event loop."""
        self._ensure(name)
        if count > 0:
            self._getter.fetch(name, self._declared[name], count, on_message, on_done)
        else:
            self._safely(on_done, 0, False)

    def peek(self, name: str) -> Any:
        """Take the first message and put it back. With a delivery limit, quorum queues too put it back to the front."""

        def take(channel: Any) -> Any:
            channel.send_method(spec.Basic.Get, "Bsb", (0, name, False))
            answer = channel.wait([spec.Basic.GetOk, spec.Basic.GetEmpty], timeout=PATIENCE, returns_tuple=True)
            if len(answer) < 2:
                return None
            raw = channel._on_get_ok(*answer)
            channel.basic_reject(raw.delivery_tag, requeue=True)
            return Message(raw, channel=channel)

        try:
            message = self._publisher.ask(take)
        except amqp.NotFound:
            return None
        if message is not None:
            message.accept = self._consumer.task_consumer.accept
            message._state = "REQUEUED"
        return message

    def count(self, name: str) -> int:
        """Return the number of messages that are ready, as RabbitMQ counts them."""
        return self._ready(name) or 0

    def exists(self, name: str) -> bool:
        """Return whether RabbitMQ knows the queue."""
        return self._ready(name) is not None

    def _ready(self, name: str) -> int | None:
        try:
            return self._publisher.ask(lambda channel: _declare(channel, name, None))
        except amqp.NotFound:
            return None

    def _name(self, queue: str, number: int) -> str:
        name = waiting_name(queue, number)
        if name not in self._declared:
            declaration_for(self._consumer.app.amqp.queues, queue)
        return name

    def _declare(self, name: str) -> None:
        if name in self._declared:
            return
        declared = declaration_for(self._consumer.app.amqp.queues, source_and_number(name)[0])
        try:
            if "x-queue-type" not in declared.arguments and self._is_quorum_by_default(name, declared):
                declared = as_quorum(declared)
            self._publisher.ask(lambda channel: _declare(channel, name, declared))
        except amqp.ChannelError as error:
            raise WaitingImpossible(f"messages can't wait in {name!r}: RabbitMQ refuses it: {error}") from error
        self._declared[name] = declared

    def _is_quorum_by_default(self, name: str, declared: Declaration) -> bool:
        """Return whether a queue without a type is a quorum queue. That is up to its virtual host."""
        if self._quorum_by_default is None:
            try:
                self._publisher.ask(lambda channel: _declare(channel, name, as_quorum(declared)))
            except amqp.PreconditionFailed:
                self._quorum_by_default = False
            else:
                self._quorum_by_default = True
        return self._quorum_by_default

    def _wake(self) -> None:
        self._getter.poke()


class _MessageAsItCame(Message):
    """A message that keeps its body as it came. kombu decompresses the body, and leaves the header that says so."""

    def __init__(self, raw: Any, channel: Any = None, **options: Any) -> None:
        self.body_as_it_came = raw.body
        super().__init__(raw, channel=channel, **options)


def _declare(channel: Any, name: str, declared: Declaration | None) -> int:
    """Declare a queue, or ask about it; the number of its messages that are ready."""
    channel.send_method(spec.Queue.Declare, DECLARE, declare_arguments(name, declared))
    answer = channel.wait(spec.Queue.DeclareOk, timeout=PATIENCE, returns_tuple=True)
    return int(answer[1])
