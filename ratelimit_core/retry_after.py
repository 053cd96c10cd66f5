"""Read from an error how long to wait: from its ``retry_after`` attribute, or from HTTP's ``Retry-After``."""

from __future__ import annotations

import time
from datetime import UTC
from email.utils import parsedate_to_datetime


def parse_retry_after(error: BaseException) -> float | None:
    """Return the seconds that an error asks its caller to wait, or None.

    Read the error's attribute ``retry_after``. If this attribute is missing or is not a number, read the header
    ``Retry-After``, which is a number of seconds or a date. The headers are ``error.response.headers`` (requests,
    httpx) or ``error.headers``.

    Return None if there is neither, or if the wait is not positive, or is 30 days or more.
    """
    try:
        return _asked(error)
    except Exception:  # another library's error may raise anything when its attributes are read
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
    if when.tzinfo is None:  # the offset "-0000" gives a date without a time zone, and means UTC
        when = when.replace(tzinfo=UTC)
    return _sane(when.timestamp() - time.time())


def _sane(seconds: float) -> float | None:
    return float(seconds) if 0 < seconds < 30 * 86400 else None
