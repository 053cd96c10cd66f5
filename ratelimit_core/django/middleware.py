"""``ResilienceMiddleware``: limit requests before all views, and turn the library's errors into responses."""

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
    """The limits of ``RATELIMIT_MIDDLEWARE``, which apply to requests by path, before all views.

    For example::

        RATELIMIT_MIDDLEWARE = {
            "rate": "100/m",  # for each client; all paths without their own rate count together
            "rates": {"/api/": "10/s;1000/h", "/static": None},  # each path counts separately; None: no rate
            "skip_paths": ["/health/"],
            "key": "user_or_ip",  # "ip" by default
        }

    Other options of :func:`~ratelimit_core.django.decorators.rate_limit` apply to all paths. A path stands for itself
    and all paths below it: ``/api`` and ``/api/`` match ``/api/users``, but not ``/apiary``. The longest matching path
    applies.

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
        if not isinstance(rates, Mapping):
            raise ConfigurationError(
                f"RATELIMIT_MIDDLEWARE: rates={rates!r} should be a dictionary, as in {{'/api/': '10/s'}}"
            )
        if isinstance(skipped, str):
            raise ConfigurationError(
                f"RATELIMIT_MIDDLEWARE: skip_paths={skipped!r} should be a list, as in ['/health/']"
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
        """Return the limit for the path of ``request``, and the scope of its counters."""
        asked = request.path_info
        for path, directory, limit in self._by_path:
            if asked == path or asked.startswith(directory):
                return limit, f"{_SCOPE}:{path}"
        return self._default, _SCOPE


class ResilienceMiddleware:
    """A middleware that limits requests before all views, and answers this library's errors.

    Add it to ``MIDDLEWARE``, after the authentication if limits are by user.

    * It applies the limits of ``RATELIMIT_MIDDLEWARE`` before views: see :class:`SiteLimits`. Without that setting the
      middleware asks no store.
    * It turns a :class:`CircuitBreakerError` or :class:`BackendError` that a view raises into ``503``, and
      :class:`RateLimitExceeded` into ``429``, with ``Retry-After``. Without the middleware, Django would answer with
      ``500``. ``RATELIMIT_EXCEPTION_HANDLER``, a function of ``(request, error)``, may make the response instead, or
      return None to leave the response to the middleware.
    * It adds the headers about limits to these error responses, and to responses of views that have throttles.

    Raises:
        ConfigurationError: ``RATELIMIT_MIDDLEWARE`` is wrong. The error is raised when Django starts.
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
        """Return the response to ``request``, or under ASGI an awaitable of the response."""
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
        """Return the response to an error of this library that a view raised, or None for any other error."""
        refusal = Refusal.of_error(exception)
        if refusal is None:
            return None
        handler = view_settings().exception_handler
        response = None if handler is None else handler(request, exception)
        if response is None:
            handler, response = default_response, default_response(request, refusal)
        return finished(request, refusal, response, handler)
