"""The interface to the broker: declare waiting queues, move messages to them, and fetch messages from them."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any

from .copying import Origin
from .errors import described
from .queues import source_and_number

logger = logging.getLogger("resilient_tasks")

PAUSE = 1.0
"""The seconds after which a message that could not be moved goes back to its queue. Without a pause, a broker that
refuses every move would get the same messages again at once."""

Moved = Callable[[bool], object]
"""Called once with whether the message is in the waiting queue. If not, the message goes back to where it came from."""
OnMessage = Callable[[Any], object]
Fetched = Callable[[int, bool], object]
"""Called once with the number of messages that were fetched, and whether the queue is known to have no more."""


def ignore(*_: object) -> None:
    """Do nothing."""


class Broker(ABC):
    """The broker of one worker, for as long as the consumer's connection lives.

    Every method but :meth:`soon` must be called in the consumer's own thread; other threads pass their calls to
    :meth:`soon`. No method raises an error that Celery would take for the loss of its connection. Callbacks are called
    in the consumer's own thread, and what they raise is logged.
    """

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self._channel = consumer.task_consumer.channel
        self._thread = threading.get_ident()
        self._lock = threading.Lock()
        self._calls: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._scheduled = False
        self._closed = False

    def declare(self, queue: str, number: int) -> str:
        """Return the name of the waiting queue ``number`` of the queue ``queue``, and make sure that it exists.

        The waiting queue has the source queue's type, durability and ``x-max-priority``, and nothing that could drop a
        message. Costs one round trip for each name and connection.

        Raises:
            WaitingImpossible: the source queue is of a kind whose messages can't wait, or the broker refuses it.
            BrokerUnavailable: the broker does not answer.
        """
        name = self._name(queue, number)
        self._declare(name)
        return name

    @abstractmethod
    def move(self, message: Any, to: str, origin: Origin, on_done: Moved = ignore) -> None:
        """Move a message to the waiting queue ``to``, as it is but for the header that says its ``origin``.

        A message that is not acknowledged stays the broker's until the waiting queue has it. It is then acknowledged,
        and ``on_done(True)`` is called. If the move fails, the message goes back to the queue that it was delivered
        from, and ``on_done(False)`` is called. Either way, do nothing with the message after this call. If the worker
        loses its connection meanwhile, ``on_done`` may never be called.

        A message that is acknowledged already is copied, and the call waits until the broker has confirmed the copy.

        Costs one round trip on Redis. On RabbitMQ moves are pipelined, and nothing is waited for if the worker has an
        event loop.

        Raises:
            MoveFailed: the message was acknowledged already, and could not be copied. It exists nowhere else.
        """

    @abstractmethod
    def move_back(self, message: Any, on_done: Moved = ignore) -> None:
        """Move a fetched message back to the end of its source queue, without the header.

        It goes to the queue itself, not to its exchange, which may have other queues. Otherwise as :meth:`move`.

        Raises:
            MoveFailed: as :meth:`move`.
            ValueError: the message has not waited.
        """

    @abstractmethod
    def fetch(self, name: str, count: int, on_message: OnMessage, on_done: Fetched = ignore) -> None:
        """Fetch up to ``count`` messages from the waiting queue ``name``, in order.

        Each message is passed to ``on_message`` like a delivery of the consumer: it is not acknowledged,
        ``ack()`` and ``reject()`` work, and the broker puts it back into the waiting queue if the worker is lost. A
        message that can't be decompressed goes to the consumer's ``on_decode_error``. After the last message,
        ``on_done(fetched, empty)`` is called. ``empty`` is true if the broker said that there is no more; it is false
        after an error, which is logged. If the worker loses its connection meanwhile, ``on_done`` may never be called.

        Costs one round trip. On RabbitMQ nothing is waited for: the messages arrive through the event loop.

        Raises:
            WaitingImpossible, BrokerUnavailable: as :meth:`declare`.
        """

    @abstractmethod
    def peek(self, name: str) -> Any:
        """Return the first message of the waiting queue ``name``, to be read, or None. It stays in the queue.

        ``message.payload`` decodes the body, and raises what kombu raises if it can't. On RabbitMQ the message is taken
        and put back at once. Another worker that fetches in between gets the next message first.

        Raises:
            BrokerUnavailable: the broker does not answer.
        """

    @abstractmethod
    def count(self, name: str) -> int:
        """Return the number of messages that wait in the queue ``name``; 0 if the queue does not exist.

        Raises:
            BrokerUnavailable: the broker does not answer.
        """

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Return whether the waiting queue ``name`` exists. On Redis a queue exists while it has messages.

        Raises:
            BrokerUnavailable: the broker does not answer.
        """

    def soon(self, function: Callable[..., object], *args: Any) -> None:
        """Call ``function`` soon in the consumer's own thread. Any thread may call this; the order is kept."""
        with self._lock:
            self._calls.append((function, args))
            if self._scheduled or self._closed:
                return
            self._scheduled = True
        here = threading.get_ident() == self._thread
        if here and self._consumer.hub is not None:  # from a timer, call_soon would wait for the next poll
            self._consumer.timer.call_after(0, self._run_calls)
            return
        self._consumer.call_soon(self._run_calls)
        if not here:
            self._wake()

    def close(self) -> None:
        """Finish the moves that are under way, if the connection still lives, and release everything."""
        self._closed = True

    # For the brokers

    @abstractmethod
    def _name(self, queue: str, number: int) -> str:
        """Return the name of a waiting queue of a source queue whose messages can wait."""

    @abstractmethod
    def _declare(self, name: str) -> None:
        """Make sure that a waiting queue exists and can be used."""

    @abstractmethod
    def _wake(self) -> None:
        """Make the consumer, which has no event loop, stop blocking for a moment."""

    @staticmethod
    def _origin(message: Any) -> Origin:
        origin = Origin.read(message.headers)
        if origin is None:
            raise ValueError("a message that has not waited can't be moved back to its source queue")
        return origin

    def _ensure(self, name: str) -> None:
        """Declare the waiting queue ``name``."""
        self.declare(*source_and_number(name))

    def _run_calls(self) -> None:
        with self._lock:
            calls, self._calls, self._scheduled = self._calls, deque(), False
        for function, args in calls:
            if not self._closed:
                self._safely(function, *args)

    def _safely(self, function: Callable[..., object], *args: Any) -> None:
        """Call a function of the caller. kombu takes some errors, as KeyError, for the loss of a connection."""
        try:
            function(*args)
        except Exception:
            logger.exception("%r failed; the worker goes on", function)

    def _deliver(self, message: Any, on_message: OnMessage) -> None:
        """Pass a message on as kombu's consumer does."""
        consumer = self._consumer.task_consumer
        message.accept = consumer.accept
        if message.errors:
            on_error = consumer.on_decode_error or ignore
            self._safely(lambda: message._reraise_error(on_error))
        else:
            self._safely(on_message, message)

    def _is_held(self, message: Any) -> bool:
        """Return whether the message was delivered by the connection that lives. If not, it is delivered again."""
        return message.channel is not None and message.channel.connection is not None and not self._closed

    def _put_back(self, message: Any, *, at_once: bool = False) -> None:
        """Give a message back to its queue after a pause, and try until the broker has it."""
        self._consumer.timer.call_after(0 if at_once else PAUSE, self.soon, (self._reject, message))

    def _reject(self, message: Any) -> None:
        if message.acknowledged or not self._is_held(message):
            return
        try:
            message.reject(requeue=True)
        except Exception as error:
            logger.warning("a message could not be given back to its queue; this is tried again: %s", described(error))
            self._put_back(message)
