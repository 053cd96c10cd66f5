"""The store that this process is configured to use. It is made at the first use."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from .._util.suggest import unknown_option
from ..backends.base import Backend
from ..config.breaker import CircuitBreakerConfig
from ..config.schema import SETTINGS
from ..config.sources import checked, chosen, explicit, setting
from ..errors import ConfigurationError
from .factory import entries, from_entry, make_backend
from .fallback import Store

OF_THE_BACKEND = frozenset(
    ["backend", "backend_options", "backends", "multi_backend_strategy", "redis", "database", "key_prefix"]
)
"""The settings that define the configured backend."""

_store: Store | None = None
_stores: weakref.WeakKeyDictionary[Backend, Store] = weakref.WeakKeyDictionary()
_named: dict[str, Backend] = {}
_lock = threading.RLock()
os.register_at_fork(after_in_child=lambda: globals().update(_lock=threading.RLock()))


def configure(**settings: Any) -> None:
    """Set any setting of :data:`ratelimit_core.config.schema.SETTINGS` for this process.

    The most useful settings are ``backend`` (a URL, a dotted path, a name or a :class:`Backend`), ``backend_options``,
    ``circuit_breaker`` (defaults for every breaker) and ``key_prefix``.

    Settings that are not given keep their values. None removes a value, so that the next source decides. Guards that
    have already used a store keep using it.

    Raises:
        ConfigurationError: a setting is unknown or its value is wrong, or the backend can't be made.
    """
    for name, value in settings.items():
        if name not in SETTINGS:
            raise unknown_option("configure()", name, SETTINGS)
        if value is not None:
            checked(name, value)
    if settings.get("circuit_breaker") is not None:
        CircuitBreakerConfig().with_options(checked("circuit_breaker", settings["circuit_breaker"]))
    with _lock:
        before = dict(explicit)
        explicit.update(settings)
        forget()
        if any(settings.get(name) is not None for name in ("backend", "backend_options", "backends")):
            try:
                get_store()
            except ConfigurationError:
                explicit.clear()
                explicit.update(before)
                raise


def forget() -> None:
    """Forget the backends, so that they are made from the current settings at their next use."""
    global _store
    with _lock:
        _store = None
        _named.clear()


def get_store(backend: Backend | str | None = None) -> Store:
    """Return this process's store for ``backend`` (a backend or its name). The default is the configured backend."""
    global _store
    if isinstance(backend, str):
        backend = get_backend(backend)
    store = _store if backend is None else _stores.get(backend)
    if store is not None:
        return store
    with _lock:
        if backend is None:
            if _store is None:
                CircuitBreakerConfig().with_options(setting("circuit_breaker") or {})  # raises now, not at a failure
                _store = get_store(_configured())
            return _store
        return _stores.setdefault(backend, Store(backend, retry_after=setting("store_retry_interval")))


def get_backend(name: str | None = None) -> Backend:
    """Return the configured backend, or the backend ``name``.

    The same name returns the same object until :func:`configure` is called.

    Args:
        name: the name of an entry of ``RATELIMIT_BACKENDS``, or any string that the setting ``backend`` accepts.

    Raises:
        ConfigurationError: no backend has this name, or the backend can't be made.
    """
    if name is None:
        return get_store().backend
    with _lock:
        if name not in _named:
            entry = entries().get(name)
            _named[name] = make_backend(name, members=_members) if entry is None else from_entry(entry)
        return _named[name]


def _configured() -> Backend:
    if chosen("backend", "backends") == "backends":
        return make_backend("multi", members=_members)
    return make_backend(setting("backend"), setting("backend_options"), members=_members)


def _members() -> Mapping[str, Callable[[], Backend]]:
    return {name: partial(get_backend, name) for name in entries()}
