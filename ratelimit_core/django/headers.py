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

from ..limits import Decision, Limit
from ..rates import Rate

_RATES = "_rate_limits"
"""The attribute of a request that says what was asked for it, and of a response that says what it shows."""


class Policy(NamedTuple):
    """A limit as the fields name it. ``window`` is in seconds; None for how many run at a time."""

    name: str
    quota: int
    allowance: int
    window: int | None

    def __str__(self) -> str:
        if self.window is None:
            return f'"{self.name}";q={self.quota};qu="concurrent-requests"'
        return f'"{self.name}";q={self.quota};w={self.window}'


class Policies:
    """The limits of one limiter."""

    def __init__(self, rates: Sequence[Rate], limits: Sequence[Limit]) -> None:
        policies = [
            Policy(f"{rate.limit}-per-{_number(rate.period)}s", rate.limit, limit.allowance, math.ceil(rate.period))
            for rate, limit in zip(rates, limits, strict=False)
        ]
        places = [limit.allowance for limit in limits[len(rates) :]]
        policies += [Policy(f"{most}-at-once", most, most, None) for most in places]
        self.text = ", ".join(map(str, policies))
        self._policies = policies

    def tightest(self, decision: Decision) -> Policy:
        """The limit that has the least left."""
        return self._policies[decision.tightest]


Shown = tuple[Policies, Decision]


def note(request: HttpRequest, policies: Policies, decision: Decision) -> None:
    """Remember what was asked for ``request``, for its response."""
    try:
        getattr(request, _RATES).append((policies, decision))
    except AttributeError:
        setattr(request, _RATES, [(policies, decision)])


def show(request: HttpRequest, response: Any) -> None:
    """Put the fields onto the response: those of all limits that were asked for this request, once."""
    shown: list[Shown] | None = getattr(request, _RATES, None)
    if shown is None or not isinstance(response, HttpResponseBase) or getattr(response, _RATES, 0) == len(shown):
        return
    setattr(response, _RATES, len(shown))
    policies, decision = shown[0] if len(shown) == 1 else min(shown, key=_room)
    tightest = policies.tightest(decision)
    headers = response.headers
    headers["RateLimit-Policy"] = policies.text if len(shown) == 1 else _joined(shown)
    headers["X-RateLimit-Limit"] = str(decision.limit)
    headers["X-RateLimit-Remaining"] = str(decision.remaining)
    if tightest.window is None:
        headers["RateLimit"] = f'"{tightest.name}";r={decision.remaining}'
        return
    seconds = min(math.ceil(decision.reset_after), tightest.window)
    headers["RateLimit"] = f'"{tightest.name}";r={decision.remaining};t={seconds}'
    headers["X-RateLimit-Reset"] = str(math.ceil(time.time()) + seconds)


def retry_after(seconds: float) -> str:
    """``Retry-After``: whole seconds, rounded up, at least 1."""
    return str(max(1, math.ceil(seconds)))


def _room(shown: Shown) -> tuple[bool, int]:
    return shown[1].allowed, shown[1].remaining


def _joined(shown: Iterable[Shown]) -> str:
    return ", ".join(dict.fromkeys(policies.text for policies, _ in shown))


def _number(seconds: float) -> str:
    return str(int(seconds)) if seconds == int(seconds) else str(seconds)
