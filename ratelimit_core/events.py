"""Events about breakers and the store: changes of state, mode and availability, and settings that differ.

Only the process that caused an event calls its subscribers, each once, on the thread that caused the event. An error
that a subscriber raises is logged and not passed on, unless a signal handler raised it. A guard that awaits the store
also awaits the asynchronous subscribers.
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

    ``retry_after`` is the wait until the first probe in seconds, if the breaker opened; otherwise 0. ``local`` means
    that only this process changed the state, because the store is unavailable. ``shadow`` means that the breaker is in
    shadow mode and rejects no call.
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
    """An operator changed the mode of the breaker ``name``, or reset it. See :meth:`CircuitBreaker.force_open`.

    ``mode`` is ``automatic``, ``forced_open``, ``forced_closed``, ``disabled``, ``shadow``, or ``reset``. ``ttl``
    is the duration of the mode in seconds; None means until the next change.
    """

    name: str
    mode: str
    author: str = ""
    reason: str = ""
    ttl: float | None = None


@dataclass(frozen=True, slots=True)
class ConfigMismatch:
    """Another process has other settings for the breaker ``name``, as in a rolling deploy.

    A process emits this event at most once for each breaker. Processes compare the options of the breaker's definition
    and the setting ``circuit_breaker``. A process that sets neither of them compares nothing.
    """

    name: str


@dataclass(frozen=True, slots=True)
class StoreAvailabilityChanged:
    """The store became unavailable (``available=False``, with a reason) or available again."""

    available: bool
    reason: str = ""


Event = StateChanged | ModeChanged | ConfigMismatch | StoreAvailabilityChanged
Subscriber = Callable[[Event], object]

AsyncSubscriber = Callable[[Event], Awaitable[object]]

_FIELDS = {"name": "breaker"}
"""Fields that are renamed in a log record, because a log record's own ``name`` is the logger's name."""
_subscribers: list[tuple[Subscriber, AsyncSubscriber | None]] = []


def subscribe(subscriber: Subscriber, asynchronous: AsyncSubscriber | None = None) -> Callable[[], None]:
    """Call ``subscriber`` with every event from now on. Return a function that ends the subscription.

    A guard that awaits the store awaits ``asynchronous``, if given, instead of calling ``subscriber``.
    """
    pair = subscriber, asynchronous
    _subscribers.append(pair)

    def unsubscribe() -> None:
        if pair in _subscribers:
            _subscribers.remove(pair)

    return unsubscribe


def emit(event: Event) -> None:
    """Log ``event`` in one line, with the event's fields as ``extra``, and call the subscribers."""
    _log(event)
    for subscriber, _ in list(_subscribers):
        try:
            subscriber(event)
        except tuple(interruptions):
            raise
        except Exception:
            logger.exception("a subscriber raised on %r; the other subscribers still see the event", event)


async def aemit(event: Event) -> None:
    """Do the same as :func:`emit`. Await the asynchronous subscribers."""
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
            logger.exception("a subscriber raised on %r; the other subscribers still see the event", event)


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
            logger.info(
                "breaker %r changed from %s to %s%s", event.name, event.old, event.new, _scope(event), extra=extra
            )
        case ModeChanged():
            logger.warning(
                "breaker %r: %s by %s%s; reason: %s",
                event.name,
                event.mode,
                printable(event.author) or "an unnamed operator",
                "" if event.ttl is None else f" for {event.ttl:g} s",
                printable(event.reason) or "not given",
                extra=extra,
            )
        case ConfigMismatch():
            logger.warning(
                "breaker %r has other settings in another process; if this lasts longer than a deploy, "
                "give the breaker the same settings in all processes",
                event.name,
                extra=extra,
            )
        case StoreAvailabilityChanged(available=True):
            logger.warning("the shared store is available again", extra=extra)
        case StoreAvailabilityChanged():
            logger.error(
                "the shared store is unavailable (%s); until it answers again, "
                "each guard of this process acts by its on_store_failure",
                printable(event.reason),
                extra=extra,
            )


def _scope(event: StateChanged) -> str:
    if event.local:
        return " (in this process only: the store is unavailable)"
    return " (shadow mode: no call is rejected)" if event.shadow else ""
