"""Find out how long the broker holds a message, and which queue a message came from."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from celery import Celery
from celery.utils.quorum_queues import detect_quorum_queues

_AMQP = frozenset(["amqp", "amqps", "pyamqp", ""])
_DEFAULT_VISIBILITY = {"sqs": 1800.0}
_CONSUMER_TIMEOUT = 1800.0
_NATIVE_DELAY = re.compile(r"^(?:[01]\.){28}")
"""The prefix of the routing key of a message that RabbitMQ itself delayed."""


def holding_time(app: Celery) -> float:
    """Return the seconds that a worker may hold a message before the broker delivers it again.

    Redis and SQS call this time ``visibility_timeout``. RabbitMQ calls it ``consumer_timeout``. For RabbitMQ this
    function always returns the default, 30 minutes.
    """
    scheme = _scheme(app)
    if scheme in _AMQP:
        return _CONSUMER_TIMEOUT
    options = app.conf.broker_transport_options or {}
    return float(options.get("visibility_timeout") or _DEFAULT_VISIBILITY.get(scheme, 3600.0))


def longest_countdown(app: Celery) -> float:
    """Return the longest countdown of a message that is safe, in seconds: half of :func:`holding_time`."""
    return holding_time(app) / 2


def safe_countdown(app: Celery, seconds: float) -> float:
    """Return ``seconds``, but at most :func:`longest_countdown`. Round up if RabbitMQ itself delays messages."""
    seconds = min(max(seconds, 0.0), longest_countdown(app))
    return float(math.ceil(seconds)) if seconds and delays_natively(app) else seconds


def delays_natively(app: Celery) -> bool:
    """Return whether RabbitMQ itself delays messages with a countdown. Celery uses this only with quorum queues."""
    return _scheme(app) in _AMQP and bool(detect_quorum_queues(app, "amqp")[0])


def queue_of(app: Celery, delivery_info: Mapping[str, Any] | None) -> str | None:
    """Return the name of the app's queue that a message came from, or None if the queue is unknown."""
    exchange, key = (delivery_info or {}).get("exchange") or "", (delivery_info or {}).get("routing_key") or ""
    key, delayed = _NATIVE_DELAY.subn("", key, count=1)
    queues: Mapping[str, Any] = app.amqp.queues
    if key in queues and (not exchange or delayed or queues[key].exchange.name == exchange):
        return str(key)
    for name, queue in queues.items():
        if queue.routing_key == key and (delayed or queue.exchange.name == exchange):
            return str(name)
    return None


def was_delayed_natively(delivery_info: Mapping[str, Any] | None) -> bool:
    """Return whether RabbitMQ itself delayed the message. If so, ``delivery_info`` names the exchange of the delay."""
    return _NATIVE_DELAY.match((delivery_info or {}).get("routing_key") or "") is not None


def publish_again(
    producer: Any, message: Any, exchange: str, routing_key: str, headers: Mapping[str, Any] | None = None
) -> None:
    """Publish a message again, unchanged or with other ``headers``.

    kombu has decompressed the body of a compressed message and kept the header that says so. So the body is compressed
    again.
    """
    kept = dict(message.headers if headers is None else headers)
    compression = kept.pop("compression", None)
    kept.pop("x-delivery-count", None)
    names = ("correlation_id", "reply_to", "priority", "delivery_mode")
    producer.publish(
        message.body,
        exchange=exchange,
        routing_key=routing_key,
        headers=kept,
        content_type=message.content_type,
        content_encoding=message.content_encoding,
        compression=compression,
        retry=True,
        **{name: message.properties[name] for name in names if message.properties.get(name) is not None},
    )


def _scheme(app: Celery) -> str:
    url: Any = app.conf.broker_read_url
    first = url[0] if isinstance(url, list | tuple) else url or ""
    return str(first).partition("://")[0].partition("+")[0]


def messages_in(connection: Any, queue: str) -> int:
    """Return the number of messages that are ready in ``queue``; 0 if the queue does not exist."""
    own = connection.transport.driver_type == "amqp"  # in AMQP, asking for a missing queue closes the channel
    channel = connection.channel() if own else connection.default_channel
    try:
        return int(channel.queue_declare(queue=queue, passive=True).message_count)
    except connection.channel_errors:  # in Redis an empty queue does not exist
        return 0
    finally:
        if own:
            channel.close()


def usual_queue(app: Celery, task: Any) -> str:
    """Return the name of the queue to which calls of ``task`` go by default."""
    options = {name: value for name, value in (task._get_exec_options() or {}).items() if value is not None}
    queue = app.amqp.router.route(options, task.name, (), {}, task).get("queue")
    return str(getattr(queue, "name", queue or app.conf.task_default_queue))
