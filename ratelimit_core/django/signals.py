"""Django signals: a request was limited, a breaker changed, the store became unavailable.

Receivers run in the process and on the thread that caused the event. If asynchronous code caused the event, coroutine
functions run in its event loop, and other receivers in Django's thread, where they may use the database. See
:func:`send` for events that synchronous code causes in the thread of an event loop. An exception of a receiver is
logged and does not fail the request.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any

from django.db import connections
from django.dispatch import Signal

from .. import events

logger = logging.getLogger("ratelimit_core")

rate_limit_allowed = Signal()
"""Sent when a limit allows a request. ``sender`` is the view, its class, or the middleware's class.

Receivers get ``request``, ``decision`` (a :class:`~ratelimit_core.limiter.Decision`), the strings ``key`` and
``group`` (the scope), and ``shadow``, which is True if the limit denies nothing.
"""

rate_limit_denied = Signal()
"""Sent when a request is over its limit, with the same arguments as :data:`rate_limit_allowed`.

``decision.retry_after`` is the wait in seconds.
"""

breaker_opened = Signal()
"""Sent when a breaker opens. ``sender`` is :class:`~ratelimit_core.CircuitBreaker`.

Receivers get ``name`` and ``event``, the :class:`~ratelimit_core.events.StateChanged`.
"""

breaker_half_open = Signal()
"""Sent when a breaker becomes half-open, with the same arguments as :data:`breaker_opened`."""

breaker_closed = Signal()
"""Sent when a breaker closes, with the same arguments as :data:`breaker_opened`."""

breaker_mode_changed = Signal()
"""Sent when an operator changes the mode of a breaker through this process, or resets the breaker.

The arguments are those of :data:`breaker_opened`; ``event`` is a :class:`~ratelimit_core.events.ModeChanged`.
"""

store_availability_changed = Signal()
"""Sent when the store becomes unavailable, and when it is available again.

``sender`` is :class:`~ratelimit_core.events.StoreAvailabilityChanged`. Receivers get ``available``, ``reason`` and
``event``.
"""

_OF_STATE = {"open": breaker_opened, "half_open": breaker_half_open, "closed": breaker_closed}


def send(signal: Signal, sender: Any, **values: Any) -> None:
    """Call the receivers of ``signal``. Raise nothing.

    In the thread of an event loop, this function can call neither coroutine functions nor the database. So another
    thread calls the receivers, and the loop is blocked meanwhile. Prefer :func:`asend` there.
    """
    if signal.receivers:
        call = partial(_call, signal, sender, values)
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            call()
        else:
            with ThreadPoolExecutor(1) as thread:
                thread.submit(copy_context().run, _and_close, call).result()


async def asend(signal: Signal, sender: Any, **values: Any) -> None:
    """Do what :func:`send` does, without blocking the event loop. Plain functions run in Django's thread."""
    if signal.receivers:
        await signal.asend_robust(sender, **values)


def _call(signal: Signal, sender: Any, values: dict[str, Any]) -> None:
    try:
        signal.send_robust(sender, **values)
    except Exception:  # send_robust() logs the errors of receivers itself
        logger.exception("some receivers of a signal may not have been called, because Django's dispatcher raised")


def _and_close(call: Callable[[], None]) -> None:
    """Call the receivers. Then close the database connections that they opened, because the thread ends."""
    try:
        call()
    finally:
        connections.close_all()


def bridge(event: events.Event) -> None:
    """Send the signal of ``event``, if there is one for its type."""
    signal, sender, values = _as_signal(event)
    if signal is not None:
        send(signal, sender, event=event, **values)


async def abridge(event: events.Event) -> None:
    """Do what :func:`bridge` does, without blocking the event loop."""
    signal, sender, values = _as_signal(event)
    if signal is not None:
        await asend(signal, sender, event=event, **values)


def _as_signal(event: events.Event) -> tuple[Signal | None, Any, dict[str, Any]]:
    from ..circuit_breaker import CircuitBreaker

    match event:
        case events.StateChanged(name=name, new=new):
            return _OF_STATE[new], CircuitBreaker, {"name": name}
        case events.ModeChanged(name=name):
            return breaker_mode_changed, CircuitBreaker, {"name": name}
        case events.StoreAvailabilityChanged(available=available, reason=reason):
            return (
                store_availability_changed,
                events.StoreAvailabilityChanged,
                {"available": available, "reason": reason},
            )
    return None, None, {}


_connected = False


def connect() -> None:
    """Send signals for the events of :mod:`ratelimit_core.events` from now on. A second call does nothing."""
    global _connected
    if not _connected:
        _connected = True
        events.subscribe(bridge, abridge)
