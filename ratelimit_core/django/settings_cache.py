"""Cache the settings that every request needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from .._util import imports
from ..config import sources
from ..errors import ConfigurationError
from ..store import configured
from .limits.addresses import Proxies
from .limits.callbacks import with_two


class ViewSettings(NamedTuple):
    """The settings of views, converted to the objects that use them."""

    enabled: bool
    proxies: Proxies
    response_handler: Callable[[Any, Any], Any] | None
    exception_handler: Callable[[Any, Any], Any] | None


_now: ViewSettings | None = None
_explicit: dict[str, Any] = {}


def view_settings() -> ViewSettings:
    """Return the current settings. Changes by ``override_settings`` and ``configure()`` take effect at once.

    Raises:
        ConfigurationError: a setting is wrong.
    """
    global _now, _explicit
    if _now is None or sources.explicit != _explicit:
        explicit = dict(sources.explicit)
        _now = ViewSettings(
            enabled=sources.setting("enable"),
            proxies=Proxies(sources.setting("trusted_proxies")),
            response_handler=handler("response_handler"),
            exception_handler=handler("exception_handler"),
        )
        _explicit = explicit
    return _now


def handler(name: str) -> Callable[[Any, Any], Any] | None:
    """Return the function of two arguments that a setting names, or None if the setting is not set.

    Raises:
        ConfigurationError: the value can't be imported, or can't be called with one or two arguments.
    """
    value = sources.setting(name)
    if isinstance(value, str):
        try:
            value = import_string(value)
        except ImportError as error:
            hint = imports.nearest_path(value)
            raise ConfigurationError(f"{name}={value!r} can't be imported: {error}{hint}") from error
    if value is None:
        return None
    if not callable(value):
        raise ConfigurationError(f"{name}={value!r} should be a function, or the dotted path of one")
    return with_two(value, name)


def _forget(*, setting: str, **_: Any) -> None:
    global _now
    if setting.startswith("RATELIMIT_"):
        _now = None
    if setting.removeprefix("RATELIMIT_").lower() in configured.OF_THE_BACKEND:
        configured.forget()


setting_changed.connect(_forget, dispatch_uid="ratelimit_core.django.settings_cache")
