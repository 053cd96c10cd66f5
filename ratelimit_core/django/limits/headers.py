"""What responses tell of limits: the IETF's ``RateLimit`` fields and the older ``X-RateLimit-*``, serialised here only.

``RateLimit-Policy: "10-per-1s";q=10;w=1, "1000-per-3600s";q=1000;w=3600`` names all limits that were asked, and
``RateLimit: "10-per-1s";r=4;t=1`` the one with the least left: 4 more now, all of them in at most 1 s
(draft-ietf-httpapi-ratelimit-headers). ``X-RateLimit-Limit`` and ``-Remaining`` say the same of that one, and
``X-RateLimit-Reset`` when, in seconds since the epoch. Whole seconds, rounded up.

Names are made of numbers alone: no key and no client's text is ever part of a header.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from django.http import HttpRequest
from django.http.response import HttpResponseBase

from ...limiter import Decision
from ...limiter.limit import Limit
from ...rates import Rate

_RATES = "_rate_limits"
"""The attribute of a request that says what was asked for it, and of a response that says what it shows."""


class Policy(NamedTuple):
    """A limit as the fields name it.

    ``window`` is in seconds; None for a limit on how many run at a time. ``allowance`` is what may pass at once.
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
    """The limits of one limiter, and all that can be said of them before a request comes."""

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
    """Remember what was asked for ``request``, for its response."""
    before: list[Shown] | None = getattr(request, _RATES, None)
    if before is None:
        setattr(request, _RATES, [(policies, decision)])
    else:
        before.append((policies, decision))


def show(request: Any, response: Any) -> None:
    """Put the fields onto the response: those of all limits that were asked for this request, once."""
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
    headers = response.headers
    headers["RateLimit-Policy"] = policy
    headers["X-RateLimit-Limit"] = allowance
    headers["X-RateLimit-Remaining"] = remaining
    if window is None:
        headers["RateLimit"] = f'"{name}";r={remaining}'
    else:
        seconds = min(math.ceil(decision.reset_after), window)
        headers["RateLimit"] = f'"{name}";r={remaining};t={seconds}'
        headers["X-RateLimit-Reset"] = f"{math.ceil(time.time()) + seconds}"


def retry_after(seconds: float) -> str:
    """``Retry-After``: whole seconds, rounded up, at least 1."""
    return str(max(1, math.ceil(seconds)))


def _room(shown: Shown) -> tuple[bool, int]:
    return shown[1].allowed, shown[1].remaining


def _joined(shown: Iterable[Shown]) -> str:
    return ", ".join(dict.fromkeys(policies.text for policies, _ in shown))


def _number(seconds: float) -> str:
    return str(int(seconds)) if seconds == int(seconds) else str(seconds)
