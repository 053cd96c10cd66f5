"""How long an error asks its caller to wait: ``retry_after`` attributes and HTTP's ``Retry-After``."""

from __future__ import annotations

import time
from datetime import UTC
from email.utils import parsedate_to_datetime


def parse_retry_after(error: BaseException) -> float | None:
    """The seconds that an error asks to wait, or None.

    Read from a ``retry_after`` of its own, or from the ``Retry-After`` header of its ``response`` (requests,
    httpx) in either form: seconds or a date. None, too, where that is over, or 30 days away or more.
    """
    try:
        return _asked(error)
    except Exception:  # whatever a stranger's error or its headers raise, they hold no Retry-After
        return None


def _asked(error: BaseException) -> float | None:
    own = getattr(error, "retry_after", None)
    if isinstance(own, int | float):
        return _sane(own)
    headers = getattr(getattr(error, "response", None), "headers", None)
    if headers is None:
        headers = getattr(error, "headers", None)
    text = headers.get("Retry-After") if headers is not None else None
    if not isinstance(text, str):
        return None
    try:
        return _sane(float(text))
    except ValueError:
        when = parsedate_to_datetime(text)
    if when.tzinfo is None:  # "-0000" is UTC too
        when = when.replace(tzinfo=UTC)
    return _sane(when.timestamp() - time.time())


def _sane(seconds: float) -> float | None:
    return float(seconds) if 0 < seconds < 30 * 86400 else None
