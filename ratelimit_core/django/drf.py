"""Throttles for Django REST framework that hold in all processes and count atomically.

They are named and configured as its own are, and take their place::

    REST_FRAMEWORK = {
        "DEFAULT_THROTTLE_CLASSES": ["ratelimit_core.django.drf.UserRateThrottle"],
        "DEFAULT_THROTTLE_RATES": {"user": "10/s;1000/h"},
    }

What differs: several rates are one decision; a denied request costs nothing; addresses come from
``RATELIMIT_TRUSTED_PROXIES`` and not from ``NUM_PROXIES``; ``RATELIMIT_ENABLE``, ``RATELIMIT_ALGORITHM`` and
``RATELIMIT_FAIL_OPEN`` hold. Of several throttles each counts for itself, since the framework asks them one by one.
With :class:`~ratelimit_core.django.middleware.ResilienceMiddleware` responses tell of them. As for views, an address on
the ``deny_list`` gets ``403``, and with ``on_store_failure="deny"`` requests get ``503`` while the store is away.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

from .._util.suggest import did_you_mean, missing_extra
from ..errors import ConfigurationError
from ..rates import parse_rates
from .limits.enforcement import ask
from .limits.keys import by_address, by_user
from .limits.view_limit import ViewLimit

try:
    from rest_framework.exceptions import APIException, PermissionDenied
    from rest_framework.request import Request
    from rest_framework.settings import api_settings
    from rest_framework.throttling import BaseThrottle
except ImportError as error:
    raise missing_extra(__name__, "drf", error) from None


class Unavailable(APIException):
    """``503`` with ``Retry-After``."""

    status_code = 503
    default_code = "unavailable"

    def __init__(self, detail: str, wait: float | None) -> None:
        super().__init__(detail)
        self.wait = None if wait is None else max(1, math.ceil(wait))


_limits: dict[tuple[Any, ...], ViewLimit] = {}


class RateThrottle(BaseThrottle):
    """What the throttles below have in common: one limiter for each scope and rate, and :meth:`key`.

    A request costs one round trip, none for a denial that is known.

    Attributes:
        scope: what the counters belong to, and the name of the rate in ``DEFAULT_THROTTLE_RATES``. The dotted name of
            the class by default.
        rate: the rate itself, in place of that.
        options: what else :func:`~ratelimit_core.django.decorators.rate_limit` takes, as ``{"algorithm": ...}``.
    """

    scope: str = ""
    rate: str | None = None
    options: ClassVar[dict[str, Any]] = {}

    def __init__(self) -> None:
        self._wait: float | None = None

    def key(self, request: Request) -> str | None:
        """Whose the request is; None if it is not limited."""
        raise NotImplementedError

    def allow_request(self, request: Request, view: Any) -> bool:
        """Whether ``request`` is within the limit, which counts it if so.

        Raises:
            ConfigurationError: there is no rate for the scope, or it is none.
            PermissionDenied: the address is on the ``deny_list``.
            Unavailable: the store is away, and ``on_store_failure`` is ``"deny"``.
        """
        scope = self.scope_of(view)
        rate = self.rate_of(scope) if scope else None
        if rate is None:
            return True
        _, _, refusal = ask(self._limit(rate), request, f"drf:{scope}", type(view))
        if refusal is not None and refusal.reason == "denied":
            raise PermissionDenied(refusal.detail)
        if refusal is not None and refusal.reason == "unavailable":
            raise Unavailable(refusal.detail, refusal.retry_after)
        self._wait = None if refusal is None or refusal.retry_after is None else max(1.0, refusal.retry_after)
        return refusal is None

    def wait(self) -> float | None:
        """Seconds until the request that was refused makes sense again; at least 1."""
        return self._wait

    def scope_of(self, view: Any) -> str:
        """The scope of ``view``; empty if it is not limited."""
        return self.scope or f"{type(self).__module__}.{type(self).__qualname__}"

    def rate_of(self, scope: str) -> str | None:
        """The rate of ``scope``; None if it is not limited."""
        if self.rate is not None:
            return self.rate
        rates = api_settings.DEFAULT_THROTTLE_RATES
        if scope not in rates:
            raise ConfigurationError(
                f"DEFAULT_THROTTLE_RATES has no rate for {scope!r}, which {type(self).__name__} needs; None is no limit"
                + did_you_mean(scope, rates)
                + ("" if self.scope else f". Or give {type(self).__name__} a scope, or a rate of its own")
            )
        rate: Any = rates[scope]
        return None if rate is None else str(rate)

    def _limit(self, rate: str) -> ViewLimit:
        if "concurrency" in self.options:
            raise ConfigurationError(
                f"{type(self).__name__}: a throttle does not see requests end, so it can't have a concurrency"
            )
        name = (type(self), rate)
        if name not in _limits:
            _limits[name] = ViewLimit(type(self)().key, rate, **self.options)
        return _limits[name]


def wrong_rates() -> list[str]:
    """What is wrong with ``DEFAULT_THROTTLE_RATES``, and with the throttles that all views have by default."""
    wrong = []
    for scope, rate in (api_settings.DEFAULT_THROTTLE_RATES or {}).items():
        try:
            if rate is not None:
                parse_rates(str(rate))
        except ConfigurationError as error:
            wrong.append(f"DEFAULT_THROTTLE_RATES[{scope!r}]: {error}")
    classes: Any = api_settings.DEFAULT_THROTTLE_CLASSES
    for kind in classes:
        if issubclass(kind, RateThrottle) and not issubclass(kind, ScopedRateThrottle) and not wrong:
            try:
                throttle = kind()
                rate = throttle.rate_of(throttle.scope_of(None))
                if rate is not None:
                    throttle._limit(rate)
            except ConfigurationError as error:
                wrong.append(str(error))
    return wrong


class AnonRateThrottle(RateThrottle):
    """Limits who is not logged in, by address. The rate is that of ``"anon"``."""

    scope = "anon"

    def key(self, request: Request) -> str | None:
        """The address; None for who is logged in."""
        user: Any = request.user  # None, if UNAUTHENTICATED_USER is
        return None if user is not None and user.is_authenticated else by_address(request)


class UserRateThrottle(RateThrottle):
    """Limits who is logged in by account, and others by address. The rate is that of ``"user"``."""

    scope = "user"

    def key(self, request: Request) -> str | None:
        """The account, or else the address."""
        return by_user(request)


class ScopedRateThrottle(UserRateThrottle):
    """Limits views by their ``throttle_scope``, each scope for itself; a view without one is not limited."""

    scope = ""

    def scope_of(self, view: Any) -> str:
        """The view's ``throttle_scope``."""
        return getattr(view, "throttle_scope", None) or ""
