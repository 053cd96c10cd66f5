"""What a moved message keeps, and the header that says where it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple, Self

HEADER = "resilience_waiting"
"""The header of a waiting message. A client may have written it: an invalid value is ignored."""

_NOT_COPIED_HEADERS = frozenset(["x-death", "x-delivery-count", "x-acquired-count", "CC", "BCC"])
"""The broker's own notes about the old message, and headers that would send copies to other queues."""
_NOT_COPIED_PREFIXES = ("x-first-death-", "x-last-death-")
_NOT_COPIED_PROPERTIES = frozenset(["expiration", "user_id"])
"""RabbitMQ drops a message at its ``expiration`` without a word, and refuses the ``user_id`` of another user. Celery's
``expires`` is a header and stays, so that an expired task ends as revoked."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a waiting message came from, and what it waits for.

    Attributes:
        key: the waiting key.
        queue: the name of the source queue.
        exchange: the exchange that the message was published to.
        routing_key: the routing key that it was published with.
        since: when it began to wait, in seconds since the epoch.
        redelivered: whether the broker had delivered it before it was moved.
    """

    key: str
    queue: str
    exchange: str
    routing_key: str
    since: float
    redelivered: bool = False

    @classmethod
    def of(cls, message: Any, *, key: str, queue: str, now: float) -> Self:
        """Return the origin of a message that has to wait for ``key``.

        A message that has waited before keeps its source queue and the time when it began to wait.

        Args:
            message: the message, as the consumer received it.
            key: the waiting key.
            queue: the name of the queue that the message came from, if it has not waited before.
            now: the time in seconds since the epoch.
        """
        earlier = cls.read(message.headers)
        if earlier is not None:
            return replace(earlier, key=key)
        info = message.delivery_info
        exchange, routing_key = info.get("exchange") or "", info.get("routing_key") or ""
        return cls(key, queue, exchange, routing_key, now, bool(info.get("redelivered")))

    @classmethod
    def read(cls, headers: Mapping[str, Any] | None) -> Self | None:
        """Return the origin that a message's headers carry, or None."""
        value = (headers or {}).get(HEADER)
        if not isinstance(value, Mapping):
            return None
        texts: dict[str, Any] = {name: value.get(name) for name in ("key", "queue", "exchange", "routing_key")}
        since = value.get("since")
        if not all(isinstance(text, str) for text in texts.values()) or not isinstance(since, int | float):
            return None
        return cls(**texts, since=float(since), redelivered=bool(value.get("redelivered")))

    def header(self) -> dict[str, Any]:
        """Return the value of the header."""
        return asdict(self)


class Original(NamedTuple):
    """What a run may see of a message.

    Attributes:
        origin: where the message waited before; None if it did not wait.
        delivery_info: the delivery of the message by its source queue.
        headers: the headers without the one of this library.
    """

    origin: Origin | None
    delivery_info: dict[str, Any]
    headers: dict[str, Any]


def original(message: Any, headers: Mapping[str, Any] | None = None) -> Original:
    """Return what a run may see of ``message``, as if it had not waited. The message itself is not changed.

    Args:
        message: the message, as the consumer received it.
        headers: the headers that Celery made of the message, if they are not the message's own.
    """
    origin = Origin.read(message.headers)
    shown = dict(message.headers if headers is None else headers)
    shown.pop(HEADER, None)
    info = dict(message.delivery_info)
    if origin is not None:
        shown = _without_notes(shown)
        info.update(exchange=origin.exchange, routing_key=origin.routing_key)
        info["redelivered"] = bool(info.get("redelivered") or origin.redelivered)
    return Original(origin, info, shown)


def headers_to_move(headers: Mapping[str, Any] | None, origin: Origin | None) -> dict[str, Any]:
    """Return the headers of a moved message. ``origin`` is None if it goes back to its source queue."""
    kept = _without_notes(headers or {})
    kept.pop(HEADER, None)
    return kept if origin is None else {**kept, HEADER: origin.header()}


def _without_notes(headers: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in headers.items()
        if name not in _NOT_COPIED_HEADERS and not name.startswith(_NOT_COPIED_PREFIXES)
    }


def properties_to_move(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Return the properties of a moved message."""
    return {name: value for name, value in properties.items() if name not in _NOT_COPIED_PROPERTIES}
