"""A limit on views: what to ask the limiter about a request, and how to act on the decision."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from django.http import HttpRequest
from django.http.response import HttpResponseBase

from ..._util.suggest import unknown_option
from ...backends.base import Backend
from ...config.schema import OnStoreFailure
from ...config.sources import first_set, setting
from ...errors import ConfigurationError
from ...limiter import Algorithm, Decision, Limiter
from ...rates import Rate, parse_rates
from ...store import configured
from ..settings_cache import view_settings
from . import headers
from .addresses import Networks
from .callbacks import required_arguments, with_two
from .headers import Policies
from .keys import key_function
from .responses import Refusal, default_response, finished

logger = logging.getLogger("ratelimit_core")

Rates = str | Rate | Iterable[str | Rate]
Listed = Iterable[Any] | Callable[[HttpRequest], bool]

_MAX_LIMITERS = 1000


class Limited(NamedTuple):
    """A limiter for views, its limits as headers show them, and the highest cost that the limiter can ever allow."""

    limiter: Limiter
    policies: Policies
    most: int | None


Question = tuple[Limited, str, int]
"""A question about a request: the limiter to ask, the key and the cost."""


class ViewLimit:
    """A limit on views. Several views may share one limit, which has separate counters for each scope.

    The options are those of :func:`~ratelimit_core.django.decorators.rate_limit`.

    Raises:
        ConfigurationError: an option is wrong.
    """

    def __init__(
        self,
        key: object,
        rate: Rates | Callable[[HttpRequest], Rates | None] | None = None,
        block: bool = True,
        backend: Backend | str | None = None,
        skip_if: Callable[[HttpRequest], object] | None = None,
        algorithm: Algorithm | None = None,
        algorithm_config: Mapping[str, Any] | None = None,
        response_callback: Callable[..., Any] | None = None,
        cost: int | Callable[[HttpRequest], int] = 1,
        shadow: bool = False,
        allow_list: Listed | None = None,
        deny_list: Listed | None = None,
        concurrency: int | None = None,
        timeout: float = 60.0,
        on_store_failure: OnStoreFailure | None = None,
    ) -> None:
        if rate is None and concurrency is None:
            raise ConfigurationError("rate_limit needs a rate, as in rate_limit('ip', '10/s'), or a concurrency")
        self._key = key_function(key)
        self._rate = rate
        self._block = block and not shadow
        self._shadow = shadow
        self._cost = cost
        self._skip_if = skip_if
        self._allowed = _matcher("allow_list", allow_list)
        self._denied = _matcher("deny_list", deny_list)
        self._respond = None if response_callback is None else with_two(response_callback, "response_callback")
        self.holds_place = concurrency is not None
        for option in algorithm_config or {}:
            if option != "burst":
                raise unknown_option("algorithm_config", option, ["burst"])
        self._options: dict[str, Any] = {
            "algorithm": algorithm or setting("algorithm"),
            "burst": (algorithm_config or {}).get("burst"),
            "concurrency": concurrency,
            "timeout": timeout,
            "backend": configured.get_backend(backend) if isinstance(backend, str) else backend,
            "on_store_failure": on_store_failure or _on_store_failure(),
        }
        self._makes_exceptions = not (skip_if is None and allow_list is None and deny_list is None)
        self._rate_varies, self._cost_varies = callable(rate), callable(cost)
        self._complained = False
        self._limited: dict[tuple[str, str | Rate | tuple[Rate, ...] | None], Limited] = {}
        for option, function in (("rate", rate), ("cost", cost), ("skip_if", skip_if)):
            if callable(function):
                required_arguments(function, option, 1)
        if not callable(cost):
            _checked_cost(cost)
        if not callable(rate):
            most = self.limited("rate_limit", rate).most
            if most is not None and not callable(cost) and cost > most:
                raise ConfigurationError(f"cost={cost!r} can never be allowed by {rate!r}; write at most {most}")

    def limiter(self, scope: str) -> Limiter | None:
        """Return the limiter of a scope. Return None if the rate is a function, because it may need many limiters."""
        return None if callable(self._rate) else self.limited(scope, self._rate).limiter

    def limited(self, scope: str, rate: Any) -> Limited:
        """Return the limiter of a scope and a rate. A different rate has its own counters.

        Raises:
            ConfigurationError: the rate is wrong.
        """
        name = rate if type(rate) is str or rate is None or isinstance(rate, str | Rate) else parse_rates(rate)
        limited = self._limited.get((scope, name))
        if limited is None:
            rates = () if rate is None else parse_rates(rate)
            limiter = Limiter(rates or None, key=scope, **self._options)
            most = min((limit.allowance for limit in limiter.limits[: len(rates)]), default=None)
            limited = Limited(limiter, Policies(rates, limiter.limits), most)
            if len(self._limited) >= _MAX_LIMITERS:
                self._limited.clear()
            self._limited[scope, name] = limited
        return limited

    def question(self, request: HttpRequest, scope: str) -> Question | Refusal | None:
        """Return the question about ``request``, or None if it is not limited, or a refusal if it is denied at once."""
        if not view_settings().enabled:
            return None
        if self._makes_exceptions:
            if (self._skip_if is not None and self._skip_if(request)) or (
                self._allowed is not None and self._allowed(request)
            ):
                return None
            if self._denied is not None and self._denied(request):
                return Refusal("denied")
        rate: Any = self._rate
        if self._rate_varies:
            rate = rate(request)
        if rate is None and not self.holds_place:
            return None
        key = self._key(request, scope)
        if key is None:
            return None
        cost: Any = self._cost
        if self._cost_varies:
            cost = self._checked(cost(request), scope)
        if not cost:
            return None
        try:
            limited = self.limited(scope, rate)
        except ConfigurationError as error:  # the rate is from a function; a constant rate was checked before
            denies = self._options["on_store_failure"] == "deny"
            self._complain(f"{scope}: {error}; such requests {'get 503' if denies else 'are not limited'}")
            return Refusal("unavailable") if denies else None
        if limited.most is not None and cost > limited.most:
            return Refusal("never")
        return limited, f"{scope}:{key}", cost

    def _checked(self, cost: Any, scope: str) -> int:
        if type(cost) is int and cost >= 0:
            return cost
        self._complain(f"{scope}: cost={cost!r} should be a whole number, 0 or more; this cost counts as 1")
        return 1

    def _complain(self, message: str) -> None:
        """Log an error only once for this limit, because clients may be able to cause the error at will."""
        if not self._complained:
            self._complained = True
            logger.error("rate_limit: %s", message)

    def answered(self, request: HttpRequest, question: Question, decision: Decision) -> Refusal | None:
        """Record the decision for the response's headers. Return the refusal, if the decision denies ``request``."""
        limiter, policies, _ = question[0]
        known = not decision.local or limiter.on_store_failure == "local"
        if known and not self._shadow:
            headers.note(request, policies, decision)
        if decision.allowed:
            return self.refuses(request, None)
        if self._shadow:
            logger.info(
                "rate_limit: shadow mode lets a request of %r pass; without shadow mode it would be denied for %.1f s",
                limiter.key,
                decision.retry_after,
            )
        return self.refuses(request, Refusal("limited" if known else "unavailable", decision.retry_after, decision))

    def refuses(self, request: HttpRequest, refusal: Refusal | None) -> Refusal | None:
        """Set ``request.rate_limit_exceeded``. Return ``refusal``, or None if ``request`` may reach the view."""
        if refusal is None or self._shadow:
            request.__dict__.setdefault("rate_limit_exceeded", False)
            return None
        request.__dict__["rate_limit_exceeded"] = True
        return refusal if self._block else None

    def told(self, request: HttpRequest, scope: str, key: str, decision: Decision) -> dict[str, Any]:
        """Return the arguments of the signal about a decision."""
        return {
            "request": request,
            "decision": decision,
            "key": key,
            "group": scope,
            "shadow": self._shadow,
        }

    def respond(self, request: HttpRequest, refusal: Refusal) -> HttpResponseBase:
        """Return the response of ``response_callback``, of ``RATELIMIT_RESPONSE_HANDLER``, or the default one."""
        make = self._respond or view_settings().response_handler or default_response
        return finished(plain(request), refusal, make(request, refusal), make)


def plain(request: Any) -> HttpRequest:
    """Return Django's own request, also for a request of Django REST framework."""
    inner: HttpRequest = request if isinstance(request, HttpRequest) else request._request
    return inner


def _checked_cost(cost: Any) -> int:
    if type(cost) is not int or cost < 1:
        raise ConfigurationError(f"cost={cost!r} should be a whole number, 1 or more")
    return cost


def _matcher(option: str, listed: Listed | None) -> Callable[[HttpRequest], bool] | None:
    if listed is None:
        return None
    if callable(listed):
        required_arguments(listed, option, 1)
        return listed
    networks = Networks([listed] if isinstance(listed, str) else listed, option)
    return lambda request: view_settings().proxies.client(request) in networks


def _on_store_failure() -> OnStoreFailure:
    """Return ``on_store_failure`` from the first source of settings that sets it or its alias ``fail_open``."""
    chosen = first_set("on_store_failure", "fail_open")
    if chosen is None:
        return "local"
    if chosen == "fail_open":
        return "allow" if setting("fail_open") else "deny"
    answer: OnStoreFailure = setting("on_store_failure")
    return answer
