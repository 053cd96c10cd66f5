"""Throttles for Django REST framework whose limits hold in all processes.

These throttles have the names and the settings of the framework's own throttles, and take their place::

    REST_FRAMEWORK = {
        "DEFAULT_THROTTLE_CLASSES": ["ratelimit_core.django.drf.UserRateThrottle"],
        "DEFAULT_THROTTLE_RATES": {"user": "10/s;1000/h"},
    }

Differences from the framework's own throttles:

* Counting is atomic. Several rates of a throttle are one decision, and a denied request is not counted.
* Addresses come from ``RATELIMIT_TRUSTED_PROXIES``, not from ``NUM_PROXIES``.
* ``RATELIMIT_ENABLE``, ``RATELIMIT_ALGORITHM``, ``RATELIMIT_ON_STORE_FAILURE`` and ``RATELIMIT_FAIL_OPEN`` apply.
* :class:`~ratelimit_core.django.middleware.ResilienceMiddleware` adds the headers about limits to responses.
* An address on the ``deny_list`` gets ``403``, as in views. With ``on_store_failure="deny"``, requests get ``503``
  while the store is unavailable.

If a view has several throttles, the framework asks them one by one, and each throttle counts separately.
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
    """The error for a request while the store is unavailable: ``503`` with ``Retry-After``."""

    status_code = 503
    default_code = "unavailable"

    def __init__(self, detail: str, wait: float | None) -> None:
        super().__init__(detail)
        self.wait = None if wait is None else max(1, math.ceil(wait))


_limits: dict[tuple[Any, ...], ViewLimit] = {}


class RateThrottle(BaseThrottle):
    """The base class of the throttles. Subclasses define :meth:`key`. Each scope and rate has its own counters.

    A request costs one round trip. A repeated denial costs none while this process knows the wait.

    Attributes:
        scope: the name of the counters, and of the rate in ``DEFAULT_THROTTLE_RATES``. The default is the dotted name
            of the class.
        rate: the rate. It takes precedence over ``DEFAULT_THROTTLE_RATES``.
        options: other options of :func:`~ratelimit_core.django.decorators.rate_limit`, such as ``{"shadow": True}``.
    """

    scope: str = ""
    rate: str | None = None
    options: ClassVar[dict[str, Any]] = {}

    def __init__(self) -> None:
        self._wait: float | None = None

    def key(self, request: Request) -> str | None:
        """Return the key that the request counts for, or None if it is not limited."""
        raise NotImplementedError

    def allow_request(self, request: Request, view: Any) -> bool:
        """Count ``request`` and return True, or return False if the request is over the limit.

        Raises:
            ConfigurationError: the scope has no rate in ``DEFAULT_THROTTLE_RATES``, or an option is wrong.
            PermissionDenied: the address is on the ``deny_list``.
            Unavailable: the store is unavailable, and ``on_store_failure`` is ``"deny"``.
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
        """Return the retry after, at least 1 s, or None if the request was allowed or can never be allowed."""
        return self._wait

    def scope_of(self, view: Any) -> str:
        """Return the scope of ``view``, or ``""`` if the view is not limited."""
        return self.scope or f"{type(self).__module__}.{type(self).__qualname__}"

    def rate_of(self, scope: str) -> str | None:
        """Return the rate of ``scope``, or None if the scope is not limited."""
        if self.rate is not None:
            return self.rate
        rates = api_settings.DEFAULT_THROTTLE_RATES
        if scope not in rates:
            raise ConfigurationError(
                f"DEFAULT_THROTTLE_RATES has no rate for {scope!r}, which {type(self).__name__} needs; "
                "add one, or None for no limit"
                + ("" if self.scope else f"; or give {type(self).__name__} a scope, or its own rate")
                + did_you_mean(scope, rates)
            )
        rate: Any = rates[scope]
        return None if rate is None else str(rate)

    def _limit(self, rate: str) -> ViewLimit:
        if "concurrency" in self.options:
            raise ConfigurationError(
                f"{type(self).__name__}: a throttle does not see the end of a request, so it can't limit concurrency; "
                "use rate_limit(..., concurrency=...) on the view"
            )
        name = (type(self), rate)
        if name not in _limits:
            _limits[name] = ViewLimit(type(self)().key, rate, **self.options)
        return _limits[name]


def wrong_rates() -> list[str]:
    """Return the errors in ``DEFAULT_THROTTLE_RATES``; if none, the first in ``DEFAULT_THROTTLE_CLASSES``."""
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
    """A throttle for anonymous users, by address. The scope is ``"anon"``."""

    scope = "anon"

    def key(self, request: Request) -> str | None:
        """Return the address, or None for a user who is logged in."""
        user: Any = request.user  # None, if UNAUTHENTICATED_USER is None
        return None if user is not None and user.is_authenticated else by_address(request)


class UserRateThrottle(RateThrottle):
    """A throttle by account for users who are logged in, and by address for others. The scope is ``"user"``."""

    scope = "user"

    def key(self, request: Request) -> str | None:
        """Return the account, or the address of an anonymous user."""
        return by_user(request)


class ScopedRateThrottle(UserRateThrottle):
    """A throttle whose scope is the view's ``throttle_scope``. A view without ``throttle_scope`` is not limited."""

    scope = ""

    def scope_of(self, view: Any) -> str:
        """Return the view's ``throttle_scope``."""
        return getattr(view, "throttle_scope", None) or ""
