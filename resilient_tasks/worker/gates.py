"""The gate of each worker, by its app."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Protocol

from celery import Celery

if TYPE_CHECKING:
    from ..execution.run import Refused


class Gate(Protocol):
    """What a request asks the gate of its worker. ``request`` is a :class:`.request.ResilientRequest`."""

    def received(self, request: Any) -> None:
        """Take note of a message that has arrived."""

    def admits(self, request: Any) -> bool:
        """Whether the request may go to the pool now; otherwise the gate keeps it and brings it again."""

    def refused(self, request: Any, refusal: Refused) -> None:
        """Take back a request whose run found the breaker open."""

    def finished(self, request: Any) -> None:
        """Take note of a run that ended in an error."""


gates: weakref.WeakKeyDictionary[Celery, Gate] = weakref.WeakKeyDictionary()


def gate_of(app: Celery) -> Gate | None:
    """Return the gate of the worker that runs ``app`` in this process."""
    return gates.get(app)
