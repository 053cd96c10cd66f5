"""Celery signals of our own, each sent by the process in which it happened.

Connect to them as to Celery's; what receivers raise is logged, and goes no further::

    from resilient_tasks.signals import breaker_opened


    @breaker_opened.connect
    def page_somebody(sender, event, **kwargs): ...

A deferral is no error, and to Celery's own signals it looks like a retry.
"""

from __future__ import annotations

from celery.utils.dispatch import Signal

from ratelimit_core.events import Event, StateChanged, subscribe

__all__ = ["breaker_closed", "breaker_opened", "rate_limited", "task_deferred", "task_resumed"]

breaker_opened = Signal(name="breaker_opened", providing_args=["event"])
"""A breaker opened. ``sender`` is its name, ``event`` the :class:`~ratelimit_core.events.StateChanged`."""
breaker_closed = Signal(name="breaker_closed", providing_args=["event"])
"""A breaker closed. As :data:`breaker_opened`."""
task_deferred = Signal(name="task_deferred", providing_args=["request", "reason", "countdown"])
"""A task was put off: ``sender`` is the task, ``reason`` what it waits for, ``countdown`` the seconds."""
task_resumed = Signal(name="task_resumed", providing_args=["request", "waited", "deferrals"])
"""A task that was put off runs at last, after ``waited`` seconds in ``deferrals`` deferrals."""
rate_limited = Signal(name="rate_limited", providing_args=["request", "reason"])
"""A task found a limit reached; ``reason`` is the :class:`~ratelimit_core.RateLimitExceeded`."""


def _pass_on(event: Event) -> None:
    if isinstance(event, StateChanged):
        signal = {"open": breaker_opened, "closed": breaker_closed}.get(event.new)
        if signal is not None:
            signal.send(sender=event.name, event=event)


subscribe(_pass_on)
