"""Waiting queues in Redis and Valkey, in the layout of kombu's Redis transport.

kombu keeps a queue in one list for each priority step. It notes a delivered message in a hash and a sorted set, the
*unacked* keys, until the message is acknowledged. A note whose time is over is restored to the queue that it names. A
move and a fetch are one script each, so at any moment a message is in one list or in the notes, and never in both.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import SimpleNamespace
from typing import Any

from kombu.transport.virtual import QoS
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps, loads

from .base import Broker, Fetched, Moved, OnMessage, ignore, logger
from .copying import Origin, headers_to_move, properties_to_move
from .errors import BrokerUnavailable, MoveFailed, WaitingImpossible, described
from .queues import declaration_for, waiting_name

_MOVE = """
if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 0 then
  return 0
end
redis.call('LPUSH', KEYS[3], ARGV[2])
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
return 1
"""
"""Move a message from the notes, KEYS[1] and KEYS[2], to the list KEYS[3]. ARGV: its tag, and the new message. If kombu
has restored the message meanwhile, nothing is moved. LPUSH is the first to write, since Redis may refuse it."""

_FETCH = """
local got = {}
local tag = 3
for list = 3, #KEYS do
  while tag <= #ARGV do
    local raw = redis.call('RPOP', KEYS[list])
    if not raw then
      break
    end
    redis.call('ZADD', KEYS[1], ARGV[1], ARGV[tag])
    redis.call('HSET', KEYS[2], ARGV[tag], '[' .. raw .. ',"",' .. ARGV[2] .. ']')
    got[#got + 1] = raw
    tag = tag + 1
  end
end
return got
"""
"""Fetch messages from the lists KEYS[3] and further, and note them under the tags ARGV[3] and further.

ARGV[1] is the time, and ARGV[2] the waiting queue in JSON, to which kombu restores what is not acknowledged."""


class RedisBroker(Broker):
    """Waiting queues in Redis and Valkey."""

    def __init__(self, consumer: Any) -> None:
        super().__init__(consumer)
        channel: Any = self._channel
        if not channel.ack_emulation:
            raise WaitingImpossible("messages can't wait in Redis without acknowledgements: set ack_emulation=True")
        client = channel._create_client()
        if channel.global_keyprefix:
            client.global_keyprefix = ""  # kombu prefixes some commands only, so all keys are prefixed here
        self._client = client
        self._move_script = client.register_script(_MOVE)
        self._fetch_script = client.register_script(_FETCH)
        self._unacked = [self._key(channel.unacked_index_key), self._key(channel.unacked_key)]
        self._declared: set[str] = set()
        self._waker = _Waker(channel.connection.cycle) if consumer.hub is None else None

    def close(self) -> None:
        """Release the pipe, if there is one."""
        super().close()
        if self._waker is not None:
            self._waker.close()

    def move(self, message: Any, to: str, origin: Origin, on_done: Moved = ignore) -> None:
        """Move a message by one script."""
        self._move(message, to, origin, ("", to), on_done)

    def move_back(self, message: Any, on_done: Moved = ignore) -> None:
        """Move a message by one script. kombu restores it to where its exchange and routing key lead."""
        origin = self._origin(message)
        self._move(message, origin.queue, None, (origin.exchange, origin.routing_key), on_done)

    def _move(self, message: Any, to: str, origin: Origin | None, restored_to: tuple[str, str], on_done: Moved) -> None:
        if message.acknowledged:
            self._copy(message, to, origin, restored_to)
            self._safely(on_done, True)
        elif not self._is_held(message):  # kombu has restored it, or will
            self._safely(on_done, False)
        else:
            try:
                target, payload = self._moved(message, to, origin, restored_to)
                arguments = [message.delivery_tag, payload]
                try:
                    moved = self._move_script(keys=[*self._unacked, target], args=arguments)
                except self._channel.connection_errors:  # a second try moves nothing if the first one moved it
                    moved = self._move_script(keys=[*self._unacked, target], args=arguments)
            except Exception as error:
                logger.warning(
                    "a message could not be moved to %r, and goes back to its queue: %s", to, described(error)
                )
                self._put_back(message)
                self._safely(on_done, False)
            else:
                QoS.ack(self._channel.qos, message.delivery_tag)  # kombu's own record of it, in this process
                message._state = "ACK"
                self._safely(on_done, bool(moved))

    def _copy(self, message: Any, to: str, origin: Origin | None, restored_to: tuple[str, str]) -> None:
        try:
            self._client.lpush(*self._moved(message, to, origin, restored_to))
        except Exception as error:
            raise MoveFailed(f"an acknowledged message could not be moved to {to!r}: {described(error)}") from error

    def _moved(self, message: Any, to: str, origin: Origin | None, restored_to: tuple[str, str]) -> tuple[str, str]:
        """Return the list that a message is moved to, and the message as it is there."""
        raw = message._raw
        properties = properties_to_move(raw["properties"])
        properties["delivery_tag"] = str(uuid.uuid4())
        exchange, routing_key = restored_to
        info = {**(properties.get("delivery_info") or {}), "exchange": exchange, "routing_key": routing_key}
        properties["delivery_info"] = info
        moved = {**raw, "headers": headers_to_move(raw.get("headers"), origin), "properties": properties}
        priority = self._channel._get_message_priority(moved, reverse=False)
        return self._key(self._channel._q_for_pri(to, priority)), dumps(moved)

    def fetch(self, name: str, count: int, on_message: OnMessage, on_done: Fetched = ignore) -> None:
        """Fetch messages by one script; all callbacks are called before this returns."""
        if count <= 0:
            self._safely(on_done, 0, False)
            return
        tags = [str(uuid.uuid4()) for _ in range(count)]
        try:
            found = self._fetch_script(
                keys=[*self._unacked, *self._lists(name)], args=[time.time(), dumps(name), *tags]
            )
        except Exception as error:
            logger.warning("no message could be fetched from %r: %s", name, described(error))
            self._safely(on_done, 0, False)
            return
        for raw, tag in zip(found, tags, strict=False):
            try:
                message = self._message(raw, tag)
                QoS.append(self._channel.qos, message, tag)
            except Exception:
                logger.exception("a message of %r can't be read; it comes back after the visibility timeout", name)
            else:
                self._deliver(message, on_message)
        self._safely(on_done, len(found), len(found) < count)

    def peek(self, name: str) -> Any:
        """Return the first message, to be read, or None. Nothing is taken out of the queue."""
        with _answered():
            for key in self._lists(name):
                raw = self._client.lindex(key, -1)
                if raw is not None:
                    message = self._message(raw, "")
                    message.accept = self._consumer.task_consumer.accept
                    message._state = "REQUEUED"  # so that an acknowledgement by mistake raises
                    return message
        return None

    def count(self, name: str) -> int:
        """Return the exact number of messages."""
        with _answered(), self._client.pipeline(transaction=False) as pipe:
            for key in self._lists(name):
                pipe.llen(key)
            return sum(pipe.execute())

    def exists(self, name: str) -> bool:
        """Return whether there are messages."""
        return self.count(name) > 0

    def _name(self, queue: str, number: int) -> str:
        name = waiting_name(queue, number)
        if name not in self._declared:
            declaration_for(self._consumer.app.amqp.queues, queue)  # which raises if its messages can't wait
        return name

    def _declare(self, name: str) -> None:
        """Check that both scripts may run: nothing has to be declared in Redis."""
        if name in self._declared:
            return
        with _answered():
            try:
                self._move_script(keys=[*self._unacked, self._key(name)], args=["", ""])
                self._fetch_script(keys=[*self._unacked, *self._lists(name)], args=[time.time(), dumps(name)])
            except self._channel.ResponseError as error:
                raise WaitingImpossible(f"messages can't wait in {name!r}: Redis refuses it: {error}") from error
        self._declared.add(name)

    def _wake(self) -> None:
        if self._waker is not None:
            self._waker.wake()

    def _message(self, raw: Any, tag: str) -> Any:
        payload = loads(bytes_to_str(raw))
        payload["properties"]["delivery_tag"] = tag
        return self._channel.Message(payload, channel=self._channel)

    def _lists(self, name: str) -> list[str]:
        """Return the keys of a queue's lists, in the order in which kombu consumes them."""
        return [self._key(self._channel._q_for_pri(name, step)) for step in self._channel.priority_steps]

    def _key(self, key: str) -> str:
        return f"{self._channel.global_keyprefix}{key}"


@contextmanager
def _answered() -> Iterator[None]:
    """Turn errors of the broker into :class:`BrokerUnavailable`."""
    try:
        yield
    except WaitingImpossible:
        raise
    except Exception as error:
        raise BrokerUnavailable(f"the broker did not answer: {described(error)}") from error


class _Waker:
    """A pipe among the sockets that kombu's poller waits for, so that another thread can end the waiting.

    To the poller it looks like a channel whose pipe is its connection.
    """

    def __init__(self, poller: Any) -> None:
        self._poller = poller
        self._reads, self._writes = os.pipe()
        os.set_blocking(self._reads, False)
        os.set_blocking(self._writes, False)
        self.qos = SimpleNamespace(can_consume=lambda: True)
        self.handlers = {"WAKE": self._drain}
        poller._fd_to_chan[self._reads] = (self, "WAKE")
        poller.poller.register(self._reads, poller.eventflags)

    def wake(self) -> None:
        with suppress(OSError):  # the pipe is full, so the poller wakes anyway
            os.write(self._writes, b"\0")

    def _drain(self) -> None:
        with suppress(OSError):
            os.read(self._reads, 4096)

    def close(self) -> None:
        self._poller._fd_to_chan.pop(self._reads, None)
        with suppress(Exception):
            self._poller.poller.unregister(self._reads)
        os.close(self._reads)
        os.close(self._writes)
