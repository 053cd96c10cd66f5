"""The Celery signals of this library. Each is sent by the process in which the event happened.

Connect to them as to Celery's signals. Errors of receivers are logged and not raised::

    from resilient_tasks.signals import breaker_opened


    @breaker_opened.connect
    def page_the_team(sender, event, **kwargs): ...

A deferral is not an error. Celery's own signals report a deferral as a retry.
"""

from __future__ import annotations

from celery.utils.dispatch import Signal

from ratelimit_core.events import Event, StateChanged, subscribe

__all__ = ["breaker_closed", "breaker_opened", "rate_limited", "task_deferred", "task_resumed"]

breaker_opened = Signal(name="breaker_opened", providing_args=["event"])
"""A breaker opened. ``sender`` is the breaker's name, ``event`` the :class:`~ratelimit_core.events.StateChanged`."""
breaker_closed = Signal(name="breaker_closed", providing_args=["event"])
"""A breaker closed. The arguments are the same as for :data:`breaker_opened`."""
task_deferred = Signal(name="task_deferred", providing_args=["request", "reason", "countdown"])
"""The task ``sender`` was deferred for ``countdown`` seconds, because of the error ``reason``."""
task_resumed = Signal(name="task_resumed", providing_args=["request", "waited", "deferrals"])
"""The task ``sender`` runs after ``waited`` seconds and ``deferrals`` deferrals."""
rate_limited = Signal(name="rate_limited", providing_args=["request", "reason"])
"""A limit denied a task. ``sender`` is the task, ``reason`` the :class:`~ratelimit_core.RateLimitExceeded`."""


def _pass_on(event: Event) -> None:
    if isinstance(event, StateChanged):
        signal = {"open": breaker_opened, "closed": breaker_closed}.get(event.new)
        if signal is not None:
            signal.send(sender=event.name, event=event)


subscribe(_pass_on)
