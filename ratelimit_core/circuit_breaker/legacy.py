"""The interface of django-smart-ratelimit: one call asks, and a separate call reports the outcome."""

from __future__ import annotations

from abc import ABC, abstractmethod

from ..errors import CircuitBreakerError
from .acquire import acquire, unsolicited_permit
from .cache import BreakerCache
from .permit import Permit, PermitStack

_unreported = PermitStack("unreported", most=100)
"""The permits that ``is_allowed()`` has acquired in this thread or task, and that no report has settled yet."""


class SeparateReports(ABC):
    """The methods for callers that ask and report by separate calls."""

    @abstractmethod
    def _resolve(self) -> BreakerCache:
        """Return the breaker's cache in this process."""

    def is_allowed(self) -> bool:
        """Return whether a call may be made now. After the call, use :meth:`report_success` or :meth:`report_failure`.

        Report in the same thread or task. A report from another thread counts too, but can't release a probe's lease.
        """
        try:
            permit = acquire(self._resolve())
        except CircuitBreakerError:
            return False
        _unreported.push(permit)
        return True

    def report_success(self) -> None:
        """Report the success of a call that :meth:`is_allowed` has allowed."""
        self._take_permit().success()

    def report_failure(self, error: BaseException | None = None) -> None:
        """Report the failure of a call that :meth:`is_allowed` has allowed, or of a call without a permit."""
        self._take_permit().failure(error)

    def _take_permit(self) -> Permit:
        cache = self._resolve()
        return _unreported.take(cache) or unsolicited_permit(cache)
