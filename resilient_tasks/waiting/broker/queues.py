"""The names of waiting queues, and how to declare them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from .errors import WaitingImpossible

_BETWEEN = ".waiting."
_LONGEST_NAME = 255
"""The maximum number of bytes of a queue's name in AMQP."""
_DELIVERY_LIMIT = 2**31 - 1
"""The limit after which a quorum queue would drop a message. RabbitMQ 4 sets 20 if nothing is said. With a limit, a
message that is put back also keeps its place. Without one, it goes to the end of the queue."""


class Declaration(NamedTuple):
    """How to declare a waiting queue."""

    durable: bool
    arguments: dict[str, Any]


def waiting_name(queue: str, number: int) -> str:
    """Return the name of the waiting queue ``number`` of ``queue``."""
    return f"{queue}{_BETWEEN}{number}"


def source_and_number(name: str) -> tuple[str, int]:
    """Return the source queue's name and the number of a waiting queue.

    Raises:
        ValueError: ``name`` is not the name of a waiting queue.
    """
    queue, between, number = name.rpartition(_BETWEEN)
    if not between or not queue or not number.isdecimal():
        raise ValueError(f"{name!r} is not the name of a waiting queue: it does not end with {_BETWEEN!r} and a number")
    return queue, int(number)


def declaration_for(queues: Mapping[str, Any], name: str) -> Declaration:
    """Return how to declare a waiting queue of the source queue ``name``.

    Args:
        queues: the app's queues, ``app.amqp.queues``.
        name: the name of the source queue.

    Raises:
        WaitingImpossible: the messages of the source queue can't wait.
    """
    source = queues.get(name)
    if source is None:
        raise WaitingImpossible(f"messages of {name!r} can't wait: the app does not know this queue")
    arguments = {**(source.queue_arguments or {})}
    kind = arguments.get("x-queue-type")
    if source.exchange is not None and source.exchange.type == "fanout":
        raise WaitingImpossible(f"messages of {name!r} can't wait: each worker gets its own copy of a broadcast")
    if source.exclusive:
        raise WaitingImpossible(f"messages of {name!r} can't wait: the queue ends with the connection of its worker")
    if source.no_ack:
        raise WaitingImpossible(f"messages of {name!r} can't wait: they are not acknowledged (no_ack)")
    if kind == "stream":
        raise WaitingImpossible(f"messages of {name!r} can't wait: the queue is a stream, which keeps its messages")
    if len(waiting_name(name, 9999).encode()) > _LONGEST_NAME:
        raise WaitingImpossible(f"messages of {name!r} can't wait: the names of its waiting queues would be too long")
    kept: dict[str, Any] = {} if kind is None else {"x-queue-type": kind}
    priority = arguments.get("x-max-priority", source.max_priority)
    if priority is not None:
        kept["x-max-priority"] = priority
    declaration = Declaration(bool(source.durable), kept)
    return as_quorum(declaration) if kind == "quorum" else declaration


def as_quorum(declaration: Declaration) -> Declaration:
    """Return the declaration of a waiting queue that is a quorum queue. RabbitMQ refuses it for a classic queue."""
    return declaration._replace(arguments={**declaration.arguments, "x-delivery-limit": _DELIVERY_LIMIT})
