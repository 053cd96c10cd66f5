"""Make the responses with the status ``429``, ``503`` and ``403``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase

from ...config.sources import setting
from ...errors import BackendError, CircuitBreakerError, ConfigurationError, RateLimitExceeded, ResilienceError
from ...limiter import Decision
from . import headers

Reason = Literal["limited", "never", "unavailable", "denied"]

_STATUS: dict[Reason, int] = {"limited": 429, "never": 429, "unavailable": 503, "denied": 403}
_DETAIL: dict[Reason, str] = {
    "limited": "Too many requests.",
    "never": "This request costs more than the limit ever allows: repeating it will not help.",
    "unavailable": "Temporarily unavailable.",
    "denied": "Not allowed from this address.",
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """The reason for a response with the status 429, 503 or 403.

    Attributes:
        reason: ``"limited"``: the request is over a limit (429). ``"never"``: the request costs more than the limit
            (429 without ``Retry-After``, because waiting does not help). ``"unavailable"``: a breaker is open, or the
            store is unavailable (503). ``"denied"``: the address is on the ``deny_list`` (403).
        retry_after: seconds until asking again makes sense, or None.
        decision: the limiter's decision, or None if no limiter was asked.
        error: the error that the view raised, or None.
    """

    reason: Reason
    retry_after: float | None = None
    decision: Decision | None = None
    error: ResilienceError | None = None

    @property
    def status(self) -> int:
        """The HTTP status of this reason."""
        return _STATUS[self.reason]

    @property
    def detail(self) -> str:
        """A sentence for the client."""
        return _DETAIL[self.reason]

    @classmethod
    def of_error(cls, error: BaseException) -> Refusal | None:
        """Return the refusal for an error that a view raised, or None if the error has no response here."""
        match error:
            case RateLimitExceeded():
                return cls("limited", error.retry_after, error=error)
            case CircuitBreakerError():
                return cls("unavailable", error.retry_after, error=error)
            case BackendError():
                wait = error.retry_after
                return cls("unavailable", setting("store_retry_interval") if wait is None else wait, error=error)
        return None


def default_response(request: HttpRequest, refusal: Refusal) -> HttpResponse:
    """Return a response of one sentence, or in JSON for a client that accepts JSON."""
    if "json" in request.META.get("HTTP_ACCEPT", ""):
        wait = refusal.retry_after
        after = {} if wait is None else {"retry_after": int(headers.retry_after(wait))}
        return JsonResponse({"error": refusal.reason, "detail": refusal.detail, **after}, status=refusal.status)
    return HttpResponse(refusal.detail, status=refusal.status, content_type="text/plain; charset=utf-8")


def finished(request: HttpRequest, refusal: Refusal, response: Any, made_by: object) -> HttpResponseBase:
    """Add the headers of a refusal to ``response`` and return it. A ``Retry-After`` that is already set stays.

    Raises:
        ConfigurationError: ``response`` is not an HttpResponse.
    """
    if not isinstance(response, HttpResponseBase):
        raise ConfigurationError(f"{made_by!r} should return an HttpResponse, not {response!r}")
    if refusal.retry_after is not None:
        response.headers.setdefault("Retry-After", headers.retry_after(refusal.retry_after))
    response.headers.setdefault("Cache-Control", "no-store")
    headers.show(request, response)
    return response
