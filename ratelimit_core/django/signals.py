"""What Django's receivers may hear: requests that were limited, breakers that changed, a store that went away.

A receiver is called by the process and on the thread that caused the event; from an event loop, coroutine functions in
that loop and others in Django's thread, where they may ask the database. What it raises is logged, by Django's logger
``django.dispatch`` or by ours, and goes no further: no request fails because of it.
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
"""A request was counted. ``sender``: what limits, a view or the middleware's class; ``request``; ``decision``, a
:class:`~ratelimit_core.limiter.Decision`; ``key`` and ``group``, both strings."""

rate_limit_denied = Signal()
"""A request was over its limit. As :data:`rate_limit_allowed`; ``decision.retry_after`` says for how long."""

breaker_opened = Signal()
"""A breaker opened. ``sender`` is :class:`~ratelimit_core.CircuitBreaker`; ``name``; ``event``, the whole
:class:`~ratelimit_core.events.StateChanged`."""

breaker_half_open = Signal()
"""A breaker lets probes through. As :data:`breaker_opened`."""

breaker_closed = Signal()
"""A breaker closed. As :data:`breaker_opened`."""

breaker_mode_changed = Signal()
"""Somebody forced, disabled or released a breaker through this process. As :data:`breaker_opened`, with a
:class:`~ratelimit_core.events.ModeChanged`."""

store_availability_changed = Signal()
"""The store became unavailable, or is available again.

``sender`` is :class:`~ratelimit_core.events.StoreAvailabilityChanged`; ``available``; ``reason``; ``event``.
"""

_OF_STATE = {"open": breaker_opened, "half_open": breaker_half_open, "closed": breaker_closed}


def send(signal: Signal, sender: Any, **values: Any) -> None:
    """Call the receivers of ``signal``. It raises nothing; without receivers it costs nothing.

    In an event loop's thread, where neither coroutine functions nor the database can be called from a plain function,
    another thread calls them while this one waits: :func:`asend` is better there.
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
    """:func:`send` from an asynchronous view. Receivers that are not coroutine functions run in Django's thread."""
    if signal.receivers:
        await signal.asend_robust(sender, **values)


def _call(signal: Signal, sender: Any, values: dict[str, Any]) -> None:
    try:
        signal.send_robust(sender, **values)
    except Exception:  # not a receiver's own, which send_robust() logs: it could not call one
        logger.exception("the receivers of a signal could not be called")


def _and_close(call: Callable[[], None]) -> None:
    """The thread ends, and nobody else would close what its receivers have opened."""
    try:
        call()
    finally:
        connections.close_all()


def bridge(event: events.Event) -> None:
    """Send the signal that ``event`` is, if there is one."""
    signal, sender, values = _as_signal(event)
    if signal is not None:
        send(signal, sender, event=event, **values)


async def abridge(event: events.Event) -> None:
    """:func:`bridge` in an event loop."""
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
    """Send signals from now on for what :mod:`ratelimit_core.events` tells. A second call changes nothing."""
    global _connected
    if not _connected:
        _connected = True
        events.subscribe(bridge, abridge)
