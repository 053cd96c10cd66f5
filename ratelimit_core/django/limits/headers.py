"""Write the headers about limits: the IETF's ``RateLimit`` fields and the older ``X-RateLimit-*``.

``RateLimit-Policy: "10-per-1s";q=10;w=1, "1000-per-3600s";q=1000;w=3600`` lists all limits that were asked.
``RateLimit: "10-per-1s";r=4;t=1`` describes the limit with the least left: it allows 4 more requests now, and all
10 in at most 1 s. The fields are those of draft-ietf-httpapi-ratelimit-headers. ``X-RateLimit-Limit`` and
``X-RateLimit-Remaining`` describe the same limit. ``X-RateLimit-Reset`` says when the whole limit is available again,
in seconds since the epoch. Seconds are whole, rounded up.

The names of limits are made from their numbers, so no key and no text of a client is ever part of a header. No other
module writes these headers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from django.http import HttpRequest
from django.http.response import HttpResponseBase, ResponseHeaders

from ...limiter import Decision
from ...limiter.limit import Limit
from ...rates import Rate

_RATES = "_rate_limits"
"""The attribute of a request that lists the decisions, and of a response that counts the decisions in its headers."""


class Policy(NamedTuple):
    """A limit as the headers describe it.

    ``window`` is in seconds, or None for a concurrency limit. ``allowance`` is the maximum number of requests at once.
    """

    name: str
    quota: int
    window: int | None
    allowance: str

    def __str__(self) -> str:
        if self.window is None:
            return f'"{self.name}";q={self.quota:d};qu="concurrent-requests"'
        return f'"{self.name}";q={self.quota:d};w={self.window:d}'


class Policies:
    """The limits of one limiter, formatted for headers once, before requests come."""

    def __init__(self, rates: Sequence[Rate], limits: Sequence[Limit]) -> None:
        policies = [
            Policy(
                f"{rate.limit:d}-per-{_number(rate.period)}s", rate.limit, math.ceil(rate.period), str(limit.allowance)
            )
            for rate, limit in zip(rates, limits, strict=False)
        ]
        policies += [
            Policy(f"{limit.allowance:d}-at-once", limit.allowance, None, str(limit.allowance))
            for limit in limits[len(rates) :]
        ]
        self.text = ", ".join(map(str, policies))
        self.policies = policies


Shown = tuple[Policies, Decision]


def note(request: HttpRequest, policies: Policies, decision: Decision) -> None:
    """Record a decision about ``request``, for the headers of the response."""
    before: list[Shown] | None = getattr(request, _RATES, None)
    if before is None:
        setattr(request, _RATES, [(policies, decision)])
    else:
        before.append((policies, decision))


def show(request: Any, response: Any) -> None:
    """Set the headers of all decisions about ``request`` on ``response``, if they are not set already."""
    shown: list[Shown] | None = getattr(request, _RATES, None)
    if shown is None or not isinstance(response, HttpResponseBase) or getattr(response, _RATES, 0) == len(shown):
        return
    setattr(response, _RATES, len(shown))
    if len(shown) == 1:
        policies, decision = shown[0]
        policy = policies.text
    else:
        policies, decision = min(shown, key=_room)
        policy = _joined(shown)
    name, _, window, allowance = policies.policies[decision.binding]
    remaining = f"{decision.remaining:d}"
    fields = {
        "ratelimit-policy": ("RateLimit-Policy", policy),
        "x-ratelimit-limit": ("X-RateLimit-Limit", allowance),
        "x-ratelimit-remaining": ("X-RateLimit-Remaining", remaining),
    }
    if window is None:
        fields["ratelimit"] = "RateLimit", f'"{name}";r={remaining}'
    else:
        seconds = min(math.ceil(decision.reset_after), window)
        fields["ratelimit"] = "RateLimit", f'"{name}";r={remaining};t={seconds}'
        fields["x-ratelimit-reset"] = "X-RateLimit-Reset", f"{math.ceil(time.time()) + seconds}"
    _set(response.headers, fields)


def _set(headers: Any, fields: dict[str, tuple[str, str]]) -> None:
    """Set ``fields``, a dictionary of pairs of name and value. The keys are the names in lower case.

    This writes Django's private ``_store``. Django's interface checks every name and value, which would add 3 µs to the
    15 µs that a limited view may cost. The names are constants and the values are made of numbers, so they are safe.
    """
    if _DJANGO_KEEPS_PAIRS and type(headers) is ResponseHeaders:
        vars(headers)["_store"].update(fields)
        return
    for name, value in fields.values():
        headers[name] = value


def _django_keeps_pairs() -> bool:
    return vars(ResponseHeaders({"A": "b"})).get("_store") == {"a": ("A", "b")}


_DJANGO_KEEPS_PAIRS = _django_keeps_pairs()
"""Whether this Django stores headers as releases since 3.2 do. If not, headers are set by Django's interface."""


def retry_after(seconds: float) -> str:
    """Return the value of ``Retry-After``: whole seconds, rounded up, at least 1."""
    return str(max(1, math.ceil(seconds)))


def _room(shown: Shown) -> tuple[bool, int]:
    return shown[1].allowed, shown[1].remaining


def _joined(shown: Iterable[Shown]) -> str:
    return ", ".join(dict.fromkeys(policies.text for policies, _ in shown))


def _number(seconds: float) -> str:
    return str(int(seconds)) if seconds == int(seconds) else str(seconds)
