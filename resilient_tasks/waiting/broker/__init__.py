"""The broker's part of waiting: move messages to waiting queues, and fetch messages from there.

A task that can't run now is moved, as the message that it is, from its source queue to a waiting queue. Later the
message is fetched from there and handled like any delivery. This package knows no store, no policy and no breaker. Read
:mod:`~resilient_tasks.waiting.broker.base` first: the interface is there.

==============  =======================================================================
``base``        the interface, and what both brokers share
``queues``      the names of waiting queues, and how to declare them
``copying``     what a moved message keeps, and the header that says where it came from
``redis``       Redis and Valkey
``amqp``        RabbitMQ; ``publisher`` and ``getter`` are its two directions
``errors``      what can be raised
==============  =======================================================================
"""

from __future__ import annotations

from typing import Any

from .base import Broker
from .copying import Origin, Original, original
from .errors import BrokerUnavailable, MoveFailed, WaitingImpossible

__all__ = [
    "Broker",
    "BrokerUnavailable",
    "MoveFailed",
    "Origin",
    "Original",
    "WaitingImpossible",
    "broker_of",
    "original",
]


def broker_of(consumer: Any) -> Broker:
    """Return the broker of a Celery worker's consumer, for as long as the consumer's connection lives.

    Call this in the consumer's own thread, when its ``task_consumer`` exists and before it consumes: a bootstep that
    requires ``celery.worker.consumer.tasks:Tasks`` calls it in ``start()``, and calls :meth:`Broker.close` in
    ``stop()``. On RabbitMQ, a compressed message that arrived before this call is moved decompressed.

    Raises:
        WaitingImpossible: messages can't wait in this kind of broker.
    """
    transport = consumer.connection.transport
    match transport.driver_name:
        case "redis":
            from .redis import RedisBroker

            return RedisBroker(consumer)
        case "py-amqp":
            from .amqp import AmqpBroker

            return AmqpBroker(consumer)
        case name:
            raise WaitingImpossible(
                f"messages can't wait in a broker that is reached through {name!r}: use Redis, Valkey, or RabbitMQ "
                "through py-amqp"
            )
