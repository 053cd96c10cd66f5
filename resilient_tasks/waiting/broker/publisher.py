"""The connection on which RabbitMQ gets moved messages, and on which questions are asked.

It is apart from the connection that the worker consumes from, for three reasons. RabbitMQ stops reading from what
publishes when its memory or disk runs out, and acknowledgements must pass even then. py-amqp raises the error of a
channel in whatever reads the connection. And whatever waits for an answer there would be interrupted by deliveries.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, TypeVar

import amqp
from amqp import spec

from .base import PAUSE, Moved, logger
from .copying import HEADER
from .errors import BrokerUnavailable, described

T = TypeVar("T")

PATIENCE = 10.0
"""The seconds to wait for an answer of RabbitMQ, where the worker waits at all."""
_REST = 5 * PAUSE
"""The seconds after a failed attempt to connect in which no other is made, since each may block the worker."""


@dataclass(slots=True, eq=False)
class Move:
    """A message on its way to a waiting queue.

    Attributes:
        message: the original.
        on_done: whom to tell.
        returned: whether RabbitMQ said that the waiting queue does not exist.
        moved: whether the waiting queue has the message; None while that is unknown.
    """

    message: Any
    to: str
    on_done: Moved
    returned: bool = False
    moved: bool | None = None


class Publisher:
    """Publishes with confirms, and asks.

    RabbitMQ confirms a message even if it can route it nowhere. So each one is published as ``mandatory``: RabbitMQ
    returns it before it confirms it. The worker's event loop reads the confirms. Without one, :meth:`wait_for` does.

    Args:
        consumer: the worker's consumer.
        settle: called with each :class:`Move` whose outcome is known, never while another call of it is under way.
    """

    def __init__(self, consumer: Any, settle: Callable[[Move], None]) -> None:
        self._consumer = consumer
        self._hub = consumer.hub
        self._settle = settle
        self._client: Any = None
        self._publishing: Any = None
        self._asking: Any = None
        self._fd = -1
        self._heartbeat: Any = None
        self._blocked = False
        self._not_before = 0.0
        self._tag = 0
        self._unconfirmed: dict[int, Move] = {}
        self._held: deque[tuple[Move, Any, Mapping[str, Any], dict[str, Any]]] = deque()
        self._settled: deque[Move] = deque()
        self._settling = False

    def publish(self, move: Move, body: Any, properties: Mapping[str, Any], headers: dict[str, Any]) -> None:
        """Publish a message, in order with the others. Nothing is waited for.

        If ``headers`` lack the one of this library, call :meth:`wait_for` before anything else is published. Otherwise
        it can't be told which message was returned.
        """
        try:
            self._connect()
        except BrokerUnavailable as error:
            logger.warning("a message could not be moved to %r, and goes back to its queue: %s", move.to, error)
            self._done(move, False)
        else:
            if self._blocked:
                self._held.append((move, body, properties, headers))
            else:
                self._send(move, body, properties, headers)
        self._finish()

    def ask(self, question: Callable[[Any], T]) -> T:
        """Return what ``question`` returns of a channel. Errors of the channel are raised as py-amqp does.

        Raises:
            BrokerUnavailable: RabbitMQ does not answer.
        """
        self._connect()
        if self._blocked:
            raise BrokerUnavailable("RabbitMQ is out of memory or disk space, and does not answer")
        try:
            return question(self._asking)
        except amqp.ChannelError:
            raise
        except Exception as error:
            self._lost(error)
            raise BrokerUnavailable(f"RabbitMQ did not answer: {described(error)}") from error
        finally:
            if self._hub is not None:  # with TLS, what was received meanwhile may wake no event loop
                self._read()
            self._finish()

    def wait_for(self, move: Move, timeout: float = PATIENCE) -> None:
        """Wait until the outcome of a move is known. After ``timeout`` seconds, it has failed."""
        self._wait(lambda: move.moved is not None, timeout)

    def close(self, timeout: float) -> None:
        """Wait up to ``timeout`` seconds for the confirms that are under way, and close the connection."""
        if timeout > 0 and not self._blocked:
            self._wait(lambda: not self._unconfirmed, timeout)
            client = self._client
            if client is not None:
                self._forget_reader()
                with suppress(Exception):
                    client.connection.sock.settimeout(timeout)
                    client.close()
        self._drop()
        self._finish()

    def _wait(self, true: Callable[[], bool], timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while self._client is not None and not true():
            try:
                self._client.connection.drain_events(timeout=max(deadline - time.monotonic(), 0.001))
            except Exception as error:
                self._lost(error)
        self._finish()

    def _connect(self) -> None:
        if self._client is not None:
            return
        if time.monotonic() < self._not_before:
            raise BrokerUnavailable("RabbitMQ could not be reached a moment ago")
        client = self._consumer.connection.clone(heartbeat=self._consumer.amqheartbeat if self._hub else 0)
        try:
            connection = client.connect()
            connection.on_blocked, connection.on_unblocked = self._on_blocked, self._on_unblocked
            self._asking, self._publishing = connection.channel(), connection.channel()
            self._publishing.confirm_select()
        except Exception as error:
            self._not_before = time.monotonic() + _REST
            with suppress(Exception):
                client.collect()
            raise BrokerUnavailable(f"RabbitMQ can't be reached: {described(error)}") from error
        self._publishing.events["basic_ack"].add(self._on_ack)
        self._publishing.events["basic_nack"].add(self._on_nack)
        self._publishing.events["basic_return"].add(self._on_return)
        self._publishing._callbacks[spec.Channel.Close] = self._on_publishing_closed
        self._client, self._tag, self._blocked = client, 0, False
        if self._hub is not None:
            self._fd = connection.sock.fileno()
            self._hub.add_reader(self._fd, self._read)
            interval = client.get_heartbeat_interval()
            if interval:
                self._heartbeat = self._consumer.timer.call_repeatedly(interval / 2, self._beat)

    def _send(self, move: Move, body: Any, properties: Mapping[str, Any], headers: dict[str, Any]) -> None:
        """Write a message. ``basic_publish`` would read the connection first, which another call may be doing."""
        tag = self._tag + 1
        if HEADER in headers:
            headers[HEADER]["tag"] = tag  # by which a returned message is known
        try:
            message = amqp.Message(body, application_headers=headers, **properties)
            arguments = (0, "", move.to, True, False)  # to the queue of that name, mandatory
            self._publishing.send_method(spec.Basic.Publish, "Bssbb", arguments, message)
        except Exception as error:
            self._done(move, False)
            if isinstance(error, amqp.Connection.connection_errors) and not isinstance(error, amqp.FrameSyntaxError):
                self._lost(error)
            else:  # it can't be written as AMQP, and nothing of it was sent
                logger.warning("a message can't be moved to %r, and goes back: %s", move.to, described(error))
        else:
            self._tag = tag
            self._unconfirmed[tag] = move

    def _read(self) -> None:
        """Read what RabbitMQ has sent. Called by the event loop."""
        try:
            while self._client is not None:
                self._client.connection.drain_events(timeout=0)
        except TimeoutError as error:
            if error.errno is not None:  # the system's error, not py-amqp's word for nothing to read
                self._lost(error)
        except Exception as error:
            self._lost(error)
        self._finish()

    def _beat(self) -> None:
        try:
            self._client.heartbeat_check(2)
        except Exception as error:
            self._lost(error)
        self._finish()

    def _on_ack(self, tag: int, multiple: bool) -> None:
        self._take(tag, multiple, True)

    def _on_nack(self, tag: int, multiple: bool) -> None:
        self._take(tag, multiple, False)

    def _take(self, tag: int, multiple: bool, confirmed: bool) -> None:
        tags = list(takewhile(lambda each: each <= tag, self._unconfirmed)) if multiple else [tag]
        for each in tags:
            move = self._unconfirmed.pop(each, None)
            if move is not None:
                self._done(move, confirmed and not move.returned)

    def _on_return(self, error: Exception, exchange: str, routing_key: str, message: Any) -> None:
        header = message.headers.get(HEADER)
        move = self._unconfirmed.get(self._tag if header is None else header["tag"])
        if move is not None:
            move.returned = True

    def _on_blocked(self, reason: str) -> None:
        logger.warning("RabbitMQ is out of memory or disk space: no message is moved until it has recovered")
        self._blocked = True

    def _on_unblocked(self) -> None:
        self._blocked = False
        held, self._held = self._held, deque()
        for each in held:
            self._send(*each)

    def _on_publishing_closed(self, code: int, text: str, class_id: int, method_id: int) -> None:
        raise _PublishingClosed(f"RabbitMQ closed the channel: {code} {text}")

    def _lost(self, error: Exception) -> None:
        if self._client is not None:
            logger.warning("the connection that moves messages was lost, the next move connects: %s", described(error))
            self._drop()

    def _drop(self) -> None:
        """Drop the connection. What is not confirmed has failed. A copy of it may be in the waiting queue."""
        client, self._client = self._client, None
        if client is None:
            return
        self._forget_reader()
        with suppress(Exception):
            client.collect()
        moves = [*self._unconfirmed.values(), *(each[0] for each in self._held)]
        self._unconfirmed.clear()
        self._held.clear()
        for move in moves:
            self._done(move, False)

    def _forget_reader(self) -> None:
        if self._heartbeat is not None:
            self._consumer.timer.cancel(self._heartbeat)
            self._heartbeat = None
        if self._fd >= 0:
            with suppress(Exception):
                self._hub.remove_reader(self._fd)
            self._fd = -1

    def _done(self, move: Move, moved: bool) -> None:
        move.moved = moved
        self._settled.append(move)

    def _finish(self) -> None:
        """Settle what is known. Not nested, since settling may lead to other calls of this object."""
        if self._settling:
            return
        self._settling = True
        try:
            while self._settled:
                self._settle(self._settled.popleft())
        finally:
            self._settling = False


class _PublishingClosed(Exception):
    """Unlike py-amqp's error, this is not taken for an error of the channel that asks."""
