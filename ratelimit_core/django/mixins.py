"""``RateLimitMixin``: limit a class-based view with class attributes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from django.http import HttpRequest
from django.views.generic import View

from .decorators import rate_limit
from .limits.view_limit import Rates

if TYPE_CHECKING:
    _Base = View
else:
    _Base = object  # so that the mixin can stand before any view class


class RateLimitMixin(_Base):
    """A mixin that limits a class-based view.

    For example::

        class Search(RateLimitMixin, ListView):
            rate_limit = "10/s;1000/h"
            rate_limit_key = "user"
            rate_limit_options = {"cost": 2}

    ``as_view(rate_limit="5/s")`` works too. All HTTP methods of a view share their counters. Each class has its own
    counters. ``as_view()`` raises a ConfigurationError for wrong options.

    Attributes:
        rate_limit: the rate, or a function of the request. None: no rate, only ``concurrency`` if it is an option.
        rate_limit_key: what to count requests by.
        rate_limit_options: other options of :func:`~ratelimit_core.django.decorators.rate_limit`.
    """

    rate_limit: Rates | Callable[[HttpRequest], Rates | None] | None = None
    rate_limit_key: str | Callable[..., object] = "user_or_ip"
    rate_limit_options: Mapping[str, Any] = {}

    @classmethod
    def as_view(cls, **initkwargs: Any) -> Any:
        """Return the limited view."""
        view = super().as_view(**initkwargs)
        # Read from the dictionaries of the classes, so that a function there does not become a bound method.
        names = ("rate_limit", "rate_limit_key", "rate_limit_options")
        rate, key, options = (initkwargs.get(name, _attribute(cls, name)) for name in names)
        if rate is None and options.get("concurrency") is None:
            return view
        return rate_limit(key, rate, **options)(view)


def _attribute(cls: type, name: str) -> Any:
    value = next(vars(base)[name] for base in cls.__mro__ if name in vars(base))
    return value.__func__ if isinstance(value, staticmethod) else value
