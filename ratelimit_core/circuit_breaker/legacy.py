"""The interface of django-smart-ratelimit: ask with ``is_allowed()``, and report with a call of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod

from ..errors import CircuitBreakerError
from .acquire import acquire, unsolicited_permit
from .cache import BreakerCache
from .permit import Permit, PermitStack

_unreported = PermitStack("unreported", most=100)
"""The permits that ``is_allowed()`` has acquired in this thread or task, and no report has settled."""


class SeparateReports(ABC):
    """How a caller asks and reports by separate calls."""

    @abstractmethod
    def _resolve(self) -> BreakerCache:
        """Return what this process knows of the breaker."""

    def is_allowed(self) -> bool:
        """Return whether a call may be made now. If so, follow it with one of the two reports below.

        Report in the same thread or task. A report from another one counts too, but can't free a probe's place.
        """
        try:
            permit = acquire(self._resolve())
        except CircuitBreakerError:
            return False
        _unreported.push(permit)
        return True

    def report_success(self) -> None:
        """Report that the call that :meth:`is_allowed` allowed succeeded."""
        self._take_permit().success()

    def report_failure(self, error: BaseException | None = None) -> None:
        """Report that the call that :meth:`is_allowed` allowed, or a call without a permit, failed."""
        self._take_permit().failure(error)

    def _take_permit(self) -> Permit:
        cache = self._resolve()
        return _unreported.take(cache) or unsolicited_permit(cache)
