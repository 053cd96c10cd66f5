"""``ResilienceMiddleware``: a limit before all views, and answers to what the library's errors mean to a client."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from .._util.suggest import unknown_option
from ..config.sources import setting
from ..errors import ConfigurationError
from .limits import headers
from .limits.enforcement import arun, run
from .limits.responses import Refusal, default_response, finished
from .limits.view_limit import ViewLimit
from .settings_cache import view_settings

_SCOPE = "middleware"
_OPTIONS = [name for name in inspect.signature(ViewLimit).parameters if name not in ("key", "rate")]


class SiteLimits:
    """The limits that ``RATELIMIT_MIDDLEWARE`` sets before views, by the path of the request.

    As in::

        RATELIMIT_MIDDLEWARE = {
            "rate": "100/m",  # for each client, over all paths that have none of their own
            "rates": {"/api/": "10/s;1000/h", "/static": None},  # counted apart; None is not limited
            "skip_paths": ["/health/"],
            "key": "user_or_ip",  # "ip" by default
        }

    and whatever else :func:`~ratelimit_core.django.decorators.rate_limit` takes, for all of them. A path holds for
    itself and what lies below it: ``/api`` and ``/api/`` for ``/api/users``, not for ``/apiary``. The longest that
    fits counts.

    Raises:
        ConfigurationError: an option is unknown or wrong.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        known = ["rate", "rates", "skip_paths", "key", *_OPTIONS]
        for option in options:
            if option not in known:
                raise unknown_option("RATELIMIT_MIDDLEWARE", option, known)
        shared = {option: options[option] for option in _OPTIONS if option in options}
        rates, skipped = options.get("rates") or {}, options.get("skip_paths") or ()
        if not isinstance(rates, Mapping) or isinstance(skipped, str):
            raise ConfigurationError(
                "RATELIMIT_MIDDLEWARE: 'rates' should be a dictionary, as in {'/api/': '10/s'}, and 'skip_paths' a list"
            )
        paths = {**rates, **dict.fromkeys(skipped)}
        for path in paths:
            if not (isinstance(path, str) and path.startswith("/")):
                raise ConfigurationError(f"RATELIMIT_MIDDLEWARE: {path!r} should be a path, as in '/api/'")
        key = options.get("key", "ip")

        def limit(rate: Any) -> ViewLimit | None:
            limits_all = rate is not None or shared.get("concurrency") is not None
            return ViewLimit(key, rate, **shared) if limits_all else None

        self._default = limit(options.get("rate"))
        longest_first = sorted(paths.items(), key=lambda item: -len(item[0]))
        self._by_path = [
            (path, path.rstrip("/") + "/", None if rate is None else limit(rate)) for path, rate in longest_first
        ]

    def of(self, request: HttpRequest) -> tuple[ViewLimit | None, str]:
        """The limit for the path of ``request``, and the scope of its counters."""
        asked = request.path_info
        for path, directory, limit in self._by_path:
            if asked == path or asked.startswith(directory):
                return limit, f"{_SCOPE}:{path}"
        return self._default, _SCOPE


class ResilienceMiddleware:
    """Add it to ``MIDDLEWARE``, after authentication if limits are by user.

    * Before views it applies the limits of ``RATELIMIT_MIDDLEWARE``: see :class:`SiteLimits`. Without that setting it
      asks nothing.
    * A :class:`CircuitBreakerError` or :class:`BackendError` that a view raises becomes ``503``, and
      :class:`RateLimitExceeded` ``429``, with ``Retry-After``; views without this middleware, decorated or not, raise
      them to Django, which answers ``500``. ``RATELIMIT_EXCEPTION_HANDLER``, a function of ``(request, error)``, is
      asked first; it returns None for the usual answer.
    * Responses tell of limits also where a view raised, and of those of Django REST framework's throttles.

    Raises:
        ConfigurationError: when Django makes it, if ``RATELIMIT_MIDDLEWARE`` is wrong.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self._get_response = get_response
        options = setting("middleware")
        self._limits = SiteLimits(options) if options else None
        self._asynchronous = iscoroutinefunction(get_response)
        if self._asynchronous:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Any:
        """The response to ``request``; in an event loop, what is to be awaited for it."""
        if self._asynchronous:
            return self._acall(request)
        limit, scope = self._limit(request)
        if limit is not None:
            return run(limit, self._get_response, request, scope, type(self), (request,), {})
        response = self._get_response(request)
        headers.show(request, response)
        return response

    async def _acall(self, request: HttpRequest) -> Any:
        limit, scope = self._limit(request)
        if limit is not None:
            return await arun(limit, self._get_response, request, scope, type(self), (request,), {})
        response = await self._get_response(request)
        headers.show(request, response)
        return response

    def _limit(self, request: HttpRequest) -> tuple[ViewLimit | None, str]:
        return (None, "") if self._limits is None else self._limits.of(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponseBase | None:
        """The response to an error of the library that a view raised; None for any other."""
        refusal = Refusal.of_error(exception)
        if refusal is None:
            return None
        handler = view_settings().exception_handler
        response = None if handler is None else handler(request, exception)
        if response is None:
            handler, response = default_response, default_response(request, refusal)
        return finished(request, refusal, response, handler)
