"""What Django's receivers may hear: requests that were limited, breakers that changed, a store that went away.

A receiver is called by the process and on the thread that caused the event. What it raises is logged, by Django's
logger ``django.dispatch`` or by ours, and goes no further: no request fails because of it.
"""

from __future__ import annotations

import logging
from typing import Any

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
:class:`~ratelimit_core.events.BreakerChanged`."""

breaker_half_open = Signal()
"""A breaker lets probes through. As :data:`breaker_opened`."""

breaker_closed = Signal()
"""A breaker closed. As :data:`breaker_opened`."""

breaker_mode_changed = Signal()
"""Somebody forced, disabled or released a breaker through this process. As :data:`breaker_opened`, with a
:class:`~ratelimit_core.events.ModeChanged`."""

store_changed = Signal()
"""The store went away or is back. ``sender`` is :class:`~ratelimit_core.events.StoreChanged`; ``up``; ``reason``;
``event``."""

_OF_STATE = {"open": breaker_opened, "half_open": breaker_half_open, "closed": breaker_closed}


def send(signal: Signal, sender: Any, **values: Any) -> None:
    """Call the receivers of ``signal``. It raises nothing; without receivers it costs nothing.

    Where an event loop runs, receivers that are coroutine functions can't be called from here: use :func:`asend`.
    """
    if signal.receivers:
        try:
            signal.send_robust(sender, **values)
        except Exception:  # not a receiver's own, which send_robust() logs: it could not call one
            logger.exception("the receivers of a signal could not be called")


async def asend(signal: Signal, sender: Any, **values: Any) -> None:
    """:func:`send` from an asynchronous view. Receivers that are not coroutine functions run in Django's thread."""
    if signal.receivers:
        await signal.asend_robust(sender, **values)


def bridge(event: events.Event) -> None:
    """Send the signal that ``event`` is, if there is one."""
    from ..circuit_breaker import CircuitBreaker

    match event:
        case events.BreakerChanged(name=name, new=new):
            send(_OF_STATE[new], CircuitBreaker, name=name, event=event)
        case events.ModeChanged(name=name):
            send(breaker_mode_changed, CircuitBreaker, name=name, event=event)
        case events.StoreChanged(up=up, reason=reason):
            send(store_changed, events.StoreChanged, up=up, reason=reason, event=event)


_connected = False


def connect() -> None:
    """Send signals from now on for what :mod:`ratelimit_core.events` tells. A second call changes nothing."""
    global _connected
    if not _connected:
        _connected = True
        events.subscribe(bridge)
