"""What happened: breakers that changed state, a store that went away or came back.

Subscribers are called by the process whose call caused the event, at most once, on the calling thread. What
they raise is logged and goes no further, but for what a signal's handler raises meanwhile. What awaits its store
awaits those that can be awaited, too.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass

from ._util.interrupts import interruptions
from ._util.text import printable

logger = logging.getLogger("ratelimit_core")


@dataclass(frozen=True, slots=True)
class StateChanged:
    """The breaker ``name`` went from ``old`` to ``new`` (``closed``, ``open``, ``half_open``).

    ``retry_after`` is the length of the wait in seconds when it opened; ``local`` says that only this process
    knows, because the store is away; ``shadow`` that nobody is refused for it.
    """

    name: str
    old: str
    new: str
    failure_count: int = 0
    retry_after: float = 0.0
    local: bool = False
    shadow: bool = False


@dataclass(frozen=True, slots=True)
class ModeChanged:
    """A person said how the breaker ``name`` is to be: see :meth:`CircuitBreaker.force_open`.

    ``mode`` is ``automatic``, ``forced_open``, ``forced_closed``, ``disabled``, ``shadow``, or ``reset``; ``ttl``
    is in seconds, None for until further notice.
    """

    name: str
    mode: str
    author: str = ""
    reason: str = ""
    ttl: float | None = None


@dataclass(frozen=True, slots=True)
class ConfigMismatch:
    """Another process has other settings for the breaker ``name``, as in a rolling deploy. Once in a process.

    Settings are the options that it was defined with, or else the setting ``circuit_breaker``. A process with neither
    only refers to the breaker: it reports nothing, and nobody reports it.
    """

    name: str


@dataclass(frozen=True, slots=True)
class StoreAvailabilityChanged:
    """The store went away (``available=False``, and why) or is back."""

    available: bool
    reason: str = ""


Event = StateChanged | ModeChanged | ConfigMismatch | StoreAvailabilityChanged
Subscriber = Callable[[Event], object]

AsyncSubscriber = Callable[[Event], Awaitable[object]]

_FIELDS = {"name": "breaker"}
"""What a field is called in a log record, which has a ``name`` of its own."""
_subscribers: list[tuple[Subscriber, AsyncSubscriber | None]] = []


def subscribe(subscriber: Subscriber, asynchronous: AsyncSubscriber | None = None) -> Callable[[], None]:
    """Have ``subscriber`` called with every event; returns what ends it.

    ``asynchronous`` is awaited in its place where an event loop may not be held up.
    """
    pair = subscriber, asynchronous
    _subscribers.append(pair)

    def unsubscribe() -> None:
        if pair in _subscribers:
            _subscribers.remove(pair)

    return unsubscribe


def emit(event: Event) -> None:
    """Log ``event``, in one line with its fields as ``extra``, and tell the subscribers."""
    _log(event)
    for subscriber, _ in list(_subscribers):
        try:
            subscriber(event)
        except tuple(interruptions):
            raise
        except Exception:
            logger.exception("a subscriber failed on %r", event)


async def aemit(event: Event) -> None:
    """:func:`emit` without blocking the event loop."""
    _log(event)
    for subscriber, asynchronous in list(_subscribers):
        try:
            if asynchronous is None:
                subscriber(event)
            else:
                await asynchronous(event)
        except tuple(interruptions):
            raise
        except Exception:
            logger.exception("a subscriber failed on %r", event)


def _log(event: Event) -> None:
    kind = re.sub("(?<=[a-z])(?=[A-Z])", "_", type(event).__name__).lower()
    extra = {"event": kind, **{_FIELDS.get(name, name): value for name, value in asdict(event).items()}}
    match event:
        case StateChanged(new="open"):
            logger.warning(
                "breaker %r opened after %d failure%s; next probe in %.1f s%s",
                event.name,
                event.failure_count,
                "" if event.failure_count == 1 else "s",
                event.retry_after,
                _scope(event),
                extra=extra,
            )
        case StateChanged():
            logger.info("breaker %r: %s -> %s%s", event.name, event.old, event.new, _scope(event), extra=extra)
        case ModeChanged():
            logger.warning(
                "breaker %r: %s by %s%s: %s",
                event.name,
                event.mode,
                printable(event.author) or "nobody named",
                "" if event.ttl is None else f" for {event.ttl:g} s",
                printable(event.reason) or "no reason given",
                extra=extra,
            )
        case ConfigMismatch():
            logger.warning(
                "breaker %r has other settings in another process; if that lasts longer than a deploy, "
                "give it the same ones everywhere",
                event.name,
                extra=extra,
            )
        case StoreAvailabilityChanged(available=True):
            logger.warning("the shared store is back", extra=extra)
        case StoreAvailabilityChanged():
            logger.error(
                "the shared store is away, going on with the state of this process: %s",
                printable(event.reason),
                extra=extra,
            )


def _scope(event: StateChanged) -> str:
    if event.local:
        return " (this process only: the store is away)"
    return " (in the shadow: nobody is refused)" if event.shadow else ""
