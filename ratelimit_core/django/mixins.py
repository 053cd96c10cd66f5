"""``RateLimitMixin``: a limit on a class-based view, by its attributes."""

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
    _Base = object  # so that it can stand before any view class


class RateLimitMixin(_Base):
    """Limits a class-based view.

    As in::

        class Search(RateLimitMixin, ListView):
            rate_limit = "10/s;1000/h"
            rate_limit_key = "user"
            rate_limit_options = {"cost": 2}

    ``as_view(rate_limit="5/s")`` works too. All methods of the view count together, each class for itself. Wrong
    options are errors where ``as_view()`` is called.

    Attributes:
        rate_limit: the rate, or a function of the request; None with a concurrency alone, or for no limit.
        rate_limit_key: whose the request is.
        rate_limit_options: whatever else :func:`~ratelimit_core.django.decorators.rate_limit` takes.
    """

    rate_limit: Rates | Callable[[HttpRequest], Rates | None] | None = None
    rate_limit_key: str | Callable[..., object] = "user_or_ip"
    rate_limit_options: Mapping[str, Any] = {}

    @classmethod
    def as_view(cls, **initkwargs: Any) -> Any:
        """The view, with its limit before it."""
        view = super().as_view(**initkwargs)
        # Looked up on the class's own dictionaries: a function there must not become a method.
        names = ("rate_limit", "rate_limit_key", "rate_limit_options")
        rate, key, options = (initkwargs.get(name, _attribute(cls, name)) for name in names)
        if rate is None and options.get("concurrency") is None:
            return view
        return rate_limit(key, rate, **options)(view)


def _attribute(cls: type, name: str) -> Any:
    value = next(vars(base)[name] for base in cls.__mro__ if name in vars(base))
    return value.__func__ if isinstance(value, staticmethod) else value
