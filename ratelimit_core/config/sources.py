"""Where a setting comes from.

The first source that sets it wins:

1. :func:`ratelimit_core.configure`, called by the program;
2. what a framework registered with :func:`add_source` (the Celery app's ``resilience_*``);
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
"""What :func:`ratelimit_core.configure` was told."""
sources: list[Source] = []


def add_source(source: Source) -> None:
    """Ask ``source(name)`` for settings before Django and the environment; None means it has none."""
    if source not in sources:
        sources.append(source)


def chosen(*names: str) -> str:
    """Which of these settings the first source has that has any; the first of them, if that has several or none has."""
    for source in _in_order():
        for name in names:
            if source(name):
                return name
    return names[0]


def _in_order() -> tuple[Source, ...]:
    return (explicit.get, *sources, _django, _environment)


def setting(name: str) -> Any:
    """The value of a setting, from the first source that has it.

    Raises:
        ConfigurationError: it has a value that makes no sense.
    """
    for source in _in_order():
        value = source(name)
        if value is not None:
            return checked(name, value)
    return SETTINGS[name].default


def checked(name: str, value: Any) -> Any:
    """``value`` in the type that it should have: the environment knows only text.

    Raises:
        ConfigurationError: it makes no sense.
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
