"""What is answered in place of a view: ``429``, ``503`` or ``403``, and by whom it is made."""

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
    """Why a request does not get to its view.

    Attributes:
        reason: ``"limited"``: over a limit (429); ``"never"``: it costs more than the limit (429 without
            ``Retry-After``, since waiting does not help); ``"unavailable"``: a breaker is open, or the store is away
            (503); ``"denied"``: it is on the ``deny_list`` (403).
        retry_after: seconds until it makes sense to ask again, or None.
        decision: the limiter's, if it was asked.
        error: what was raised, if the view ran into it.
    """

    reason: Reason
    retry_after: float | None = None
    decision: Decision | None = None
    error: ResilienceError | None = None

    @property
    def status(self) -> int:
        """The HTTP status that says so."""
        return _STATUS[self.reason]

    @property
    def detail(self) -> str:
        """A sentence for the client."""
        return _DETAIL[self.reason]

    @classmethod
    def of_error(cls, error: BaseException) -> Refusal | None:
        """What an error that a view raised means to the client; None if it is none of ours."""
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
    """A sentence; as JSON for who asks for JSON."""
    if "json" in request.META.get("HTTP_ACCEPT", ""):
        wait = refusal.retry_after
        after = {} if wait is None else {"retry_after": int(headers.retry_after(wait))}
        return JsonResponse({"error": refusal.reason, "detail": refusal.detail, **after}, status=refusal.status)
    return HttpResponse(refusal.detail, status=refusal.status, content_type="text/plain; charset=utf-8")


def finished(request: HttpRequest, refusal: Refusal, response: Any, made_by: object) -> HttpResponseBase:
    """``response`` with the headers that a refusal has; those that it brought along stay.

    Raises:
        ConfigurationError: it is no response.
    """
    if not isinstance(response, HttpResponseBase):
        raise ConfigurationError(f"{made_by!r} should return an HttpResponse, not {response!r}")
    if refusal.retry_after is not None:
        response.headers.setdefault("Retry-After", headers.retry_after(refusal.retry_after))
    response.headers.setdefault("Cache-Control", "no-store")
    headers.show(request, response)
    return response
