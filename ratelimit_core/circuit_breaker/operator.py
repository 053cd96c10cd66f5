"""A person's word on a breaker: modes, for the whole fleet, and who gave them and why."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from .._util.clock import LONGEST, SECOND
from ..errors import ConfigurationError
from ..policies.breaker import AUTOMATIC, DISABLED, FORCED_CLOSED, FORCED_OPEN, SHADOW
from . import history
from .cache import BreakerState


class ManualControl(ABC):
    """What a breaker lets people do with it. ``author`` and ``reason`` stand in its status and history."""

    name: str

    @property
    @abstractmethod
    def _known(self) -> BreakerState: ...

    def force_open(self, author: str = "", reason: str = "", ttl: float | None = None) -> None:
        """Refuse every call in the whole fleet, until further notice.

        Elsewhere it is seen within ``cache_ttl``, and where calls are refused, within a second. ``ttl``: for so
        many seconds. Who and why stand in the status and in the history. Three round trips, as for the other modes.

        Raises:
            BackendError: the store is away, and nothing was changed.
            ConfigurationError: a ``ttl`` that makes no sense, or an ``author`` or ``reason`` that is no text.
        """
        self._force(FORCED_OPEN, author, reason, ttl)

    def force_closed(self, author: str = "", reason: str = "", ttl: float | None = None) -> None:
        """Refuse no call, whatever fails; failures are still counted. See :meth:`force_open`."""
        self._force(FORCED_CLOSED, author, reason, ttl)

    def disable(self, author: str = "", reason: str = "", ttl: float | None = None) -> None:
        """Refuse no call and count nothing. See :meth:`force_open`."""
        self._force(DISABLED, author, reason, ttl)

    def shadow(self, author: str = "", reason: str = "", ttl: float | None = None) -> None:
        """Decide and report as always, and refuse no call. See :meth:`force_open`."""
        self._force(SHADOW, author, reason, ttl)

    def clear_override(self, author: str = "", reason: str = "") -> None:
        """End what was forced: the breaker decides again, from where it stood. See :meth:`force_open`."""
        self._force(AUTOMATIC, author, reason, None)

    def _force(self, mode: int, author: str, reason: str, ttl: float | None) -> None:
        if ttl is not None and not (type(ttl) in (int, float) and 0 < ttl <= LONGEST / SECOND):
            raise ConfigurationError(f"ttl={ttl!r} should be seconds, more than 0 and at most 400 days, or None")
        self._known.force(mode, author, reason, ttl)

    def history(self) -> list[dict[str, Any]]:
        """What became of it, newest first: the last 100 changes. One round trip.

        Each has ``at`` (seconds since the epoch), ``event`` (``opened``, ``half_open``, ``closed``, a mode, or
        ``reset``), ``failure_count``, ``retry_after``, ``shadow`` (nobody was refused for it), and of what a person did
        ``author``, ``reason`` and ``ttl``.
        A change whose process was killed in the very moment is missing.

        Raises:
            BackendError: the store is away.
        """
        return history.read(self._known.store.backend, self.name)

    def reset(self, author: str = "", reason: str = "") -> None:
        """Close it, end what was forced, and forget all counts, in the whole fleet (elsewhere seen within a second).

        Its history stays. Six round trips on Redis, and one more for each release rate in use; it reads the list of
        all token buckets that the store has.

        Raises:
            BackendError: the store is away; what this process knew is forgotten all the same.
        """
        self._known.reset(author, reason)
