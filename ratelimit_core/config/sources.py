"""Find the value of a setting.

A setting has the value of the first source that sets it:

1. :func:`ratelimit_core.configure`, called by the program;
2. a source that a framework added with :func:`add_source` (the Celery app's ``resilience_*``);
3. Django's settings, ``RATELIMIT_*``, if Django is in use;
4. the environment, ``RATELIMIT_*``;
5. the default, in :mod:`.schema`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from .._util.redact import without_secrets
from .._util.suggest import did_you_mean
from ..errors import ConfigurationError
from .schema import SETTINGS

Source = Callable[[str], Any]
explicit: dict[str, Any] = {}
"""The settings that :func:`ratelimit_core.configure` was called with."""
sources: list[Source] = []


def add_source(source: Source) -> None:
    """Ask ``source(name)`` for settings before Django and the environment. The source returns None if it has none."""
    if source not in sources:
        sources.append(source)


def chosen(*names: str) -> str:
    """Return which one of the settings ``names`` is in force. The first source that sets any of ``names`` decides.

    If this source sets several of ``names``, the earliest of these names is returned. If no source sets any of
    ``names``, the first name is returned. An empty value counts as not set.
    """
    for source in _in_order():
        for name in names:
            if source(name):
                return name
    return names[0]


def first_set(*names: str) -> str | None:
    """Do the same as :func:`chosen`, but count an empty value as set, and return None if no source sets any name."""
    return next((name for source in _in_order() for name in names if source(name) is not None), None)


def _in_order() -> tuple[Source, ...]:
    return (explicit.get, *sources, _django, _environment)


def setting(name: str) -> Any:
    """Return the value of a setting from the first source that sets it, or the default.

    Raises:
        ConfigurationError: the value is wrong.
    """
    for source in _in_order():
        value = source(name)
        if value is not None:
            return checked(name, value)
    return SETTINGS[name].default


def checked(name: str, value: Any) -> Any:
    """Return ``value`` converted to the type of the setting. The environment has only text.

    Raises:
        ConfigurationError: the value is wrong.
    """
    known = SETTINGS[name]
    with suppress(ValueError, TypeError, KeyError, OverflowError):
        return known.check(value)
    raise ConfigurationError(
        f"{name}={without_secrets(value)} should be {known.expected}{did_you_mean(value, known.words)}"
    )


def _django(name: str) -> Any:
    if "DJANGO_SETTINGS_MODULE" not in os.environ and "django.conf" not in sys.modules:
        return None
    from django.conf import settings

    if not settings.configured and "DJANGO_SETTINGS_MODULE" not in os.environ:
        return None
    return getattr(settings, f"RATELIMIT_{name.upper()}", None)


def _environment(name: str) -> Any:
    return os.environ.get(f"RATELIMIT_{name.upper()}") or None
