"""Where settings come from.

The first source that has one wins:

1. :func:`configure`, called by the program;
2. what a framework registered with :func:`add_source` (the Celery app's ``resilience_*``);
3. Django's settings, ``RATELIMIT_*``, if Django is in use;
4. the environment, ``RATELIMIT_*``;
5. the default.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
import threading
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from .backends.base import Backend
from .errors import ConfigurationError, unknown_option
from .store import Store

SETTINGS: dict[str, Any] = {
    "backend": "memory://",
    "backend_options": None,
    "circuit_breaker": None,
    "key_prefix": "resilient",
    "store_retry_after": 5.0,
}
"""The settings that exist, with their defaults."""

_DOTTED_PATH = re.compile(r"\w+(\.\w+)+")

Source = Callable[[str], Any]
_explicit: dict[str, Any] = {}
_sources: list[Source] = []
_store: Store | None = None
_stores: weakref.WeakKeyDictionary[Backend, Store] = weakref.WeakKeyDictionary()
_lock = threading.RLock()
os.register_at_fork(after_in_child=lambda: globals().update(_lock=threading.RLock()))


def configure(**settings: Any) -> None:
    """Set what this process uses.

    ``backend`` (a URL, a dotted path or an object), ``backend_options``, ``circuit_breaker`` (defaults for every
    breaker), ``key_prefix``, ``store_retry_after``.

    What is not named keeps its value; None takes a setting back to the next source. Guards that have already
    asked a store keep it.

    Raises:
        ConfigurationError: an unknown setting or a backend that can't be made.
    """
    global _store
    for name, value in settings.items():
        if name not in SETTINGS:
            raise unknown_option("configure()", name, SETTINGS)
        if value is not None:
            _checked(name, value)
    with _lock:
        before = dict(_explicit)
        _explicit.update(settings)
        _store = None
        if settings.get("backend") is not None or settings.get("backend_options") is not None:
            try:
                get_store()
            except ConfigurationError:
                _explicit.clear()
                _explicit.update(before)
                raise


def add_source(source: Source) -> None:
    """Ask ``source(name)`` for settings before Django and the environment; None means it has none."""
    if source not in _sources:
        _sources.append(source)


def setting(name: str) -> Any:
    """The value of a setting, from the first source that has it.

    Raises:
        ConfigurationError: it has a value that makes no sense.
    """
    sources: tuple[Source, ...] = (_explicit.get, *_sources, _django, _environment)
    for source in sources:
        value = source(name)
        if value is not None:
            return _checked(name, value)
    return SETTINGS[name]


def _checked(name: str, value: Any) -> Any:
    """``value`` in the type that it should have: the environment knows only text."""
    match name:
        case "backend_options" | "circuit_breaker":
            with suppress(ValueError):
                value = json.loads(value) if isinstance(value, str) else value
            if isinstance(value, Mapping):
                return value
            raise ConfigurationError(f"{name}={value!r} should be a dictionary (in the environment, as JSON)")
        case "key_prefix":
            if isinstance(value, str):
                return value
            raise ConfigurationError(f"key_prefix={value!r} should be a string")
        case "store_retry_after":
            try:
                seconds = float(value)
            except (TypeError, ValueError):
                seconds = -1.0
            if 0 < seconds <= 3600:
                return seconds
            raise ConfigurationError(f"store_retry_after={value!r} should be seconds, more than 0 and at most 3600")
    return value


def _django(name: str) -> Any:
    if "DJANGO_SETTINGS_MODULE" not in os.environ and "django.conf" not in sys.modules:
        return None
    from django.conf import settings

    if not settings.configured and "DJANGO_SETTINGS_MODULE" not in os.environ:
        return None
    return getattr(settings, f"RATELIMIT_{name.upper()}", None)


def _environment(name: str) -> Any:
    return os.environ.get(f"RATELIMIT_{name.upper()}") or None


def get_store(backend: Backend | None = None) -> Store:
    """This process's store of ``backend``: by default the configured one, made at the first call."""
    global _store
    store = _store if backend is None else _stores.get(backend)
    if store is not None:
        return store
    with _lock:
        if backend is None:
            if _store is None:
                _store = get_store(make_backend(setting("backend"), setting("backend_options")))
            return _store
        return _stores.setdefault(backend, Store(backend, retry_after=setting("store_retry_after")))


def get_backend() -> Backend:
    """The configured backend."""
    return get_store().backend


def make_backend(backend: Any, options: Mapping[str, Any] | None = None) -> Backend:
    """A backend from a URL (``memory://``, ``redis://``, ``rediss://``, ``unix://``), a dotted path, or itself."""
    if isinstance(backend, Backend):
        return backend
    if not isinstance(backend, str):
        raise ConfigurationError(f"backend={backend!r}: give a URL, a dotted path or a Backend")
    options = dict(options or {})
    shown = f"backend={re.sub('//[^/@]*@', '//***@', backend)!r}"
    scheme = backend.partition("://")[0]
    factory: Any
    arguments: tuple[str, ...] = ()
    if scheme == "memory":
        from .backends.memory import MemoryBackend as factory
    elif scheme in ("redis", "rediss", "unix") and scheme != backend:
        from .backends.redis_backend import RedisBackend as factory

        arguments, options = (backend,), {"key_prefix": setting("key_prefix"), **options}
    elif _DOTTED_PATH.fullmatch(backend):
        module, _, name = backend.rpartition(".")
        try:
            factory = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise ConfigurationError(f"{shown} can't be imported: {error}") from error
    else:
        raise ConfigurationError(
            f"{shown}: known are memory://, redis://, rediss://, unix:// and dotted paths of a class"
        )
    try:
        made = factory(*arguments, **options)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"{shown} with options {sorted(options)}: {error}") from error
    if not isinstance(made, Backend):
        raise ConfigurationError(f"{shown} made a {type(made).__name__}, which is no Backend")
    return made
