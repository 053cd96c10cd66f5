"""This process's stores: what it is configured to use, made when it is first used."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

from .backends.base import Backend
from .breaker_config import CircuitBreakerConfig
from .errors import ConfigurationError, ResilienceError, did_you_mean, mistyped_argument, nearest, unknown_option
from .settings import SETTINGS, checked, chosen, explicit, setting
from .store import Store
from .texts import without_secrets

_REDIS = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")
_URLS = ("memory://", *(f"{scheme}://" for scheme in _REDIS), "django-db://ALIAS")
_NAMES = ("memory", "redis", "database", "multi")
_PATHS = tuple(
    f"ratelimit_core.backends.{path}"
    for path in ("memory.MemoryBackend", "redis_backend.RedisBackend", "database.DatabaseBackend", "multi.MultiBackend")
)
_DOTTED_PATH = re.compile(r"\w+(\.\w+)+")

OF_THE_BACKEND = frozenset(
    ["backend", "backend_options", "backends", "multi_backend_strategy", "redis", "database", "key_prefix"]
)
"""The settings that make another backend of the configured one."""

_store: Store | None = None
_stores: weakref.WeakKeyDictionary[Backend, Store] = weakref.WeakKeyDictionary()
_named: dict[str, Backend] = {}
_registered: dict[str, Callable[..., Backend]] = {}
_lock = threading.RLock()
os.register_at_fork(after_in_child=lambda: globals().update(_lock=threading.RLock()))


def configure(**settings: Any) -> None:
    """Set what this process uses: any setting of :data:`ratelimit_core.settings.SETTINGS`.

    The ones of most use are ``backend`` (a URL, a dotted path, a name or an object), ``backend_options``,
    ``circuit_breaker`` (defaults for every breaker) and ``key_prefix``.

    What is not named keeps its value; None takes a setting back to the next source. Guards that have already
    asked a store keep it.

    Raises:
        ConfigurationError: an unknown setting or a backend that can't be made.
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
    """Make the configured backend anew when it is next needed: the settings have changed."""
    global _store
    with _lock:
        _store = None
        _named.clear()


def get_store(backend: Backend | str | None = None) -> Store:
    """This process's store of ``backend``, or of the one so called; by default the configured one. Made when needed."""
    global _store
    if isinstance(backend, str):
        backend = get_backend(backend)
    store = _store if backend is None else _stores.get(backend)
    if store is not None:
        return store
    with _lock:
        if backend is None:
            if _store is None:
                CircuitBreakerConfig().with_options(setting("circuit_breaker") or {})  # now, not when something fails
                _store = get_store(_configured())
            return _store
        return _stores.setdefault(backend, Store(backend, retry_after=setting("store_retry_after")))


def get_backend(name: str | None = None) -> Backend:
    """The configured backend, or the one called ``name``: the same name is the same object.

    A name is that of an entry of ``RATELIMIT_BACKENDS``, or whatever the setting ``backend`` might say.

    Raises:
        ConfigurationError: there is none of that name, or it can't be made.
    """
    if name is None:
        return get_store().backend
    with _lock:
        if name not in _named:
            entries = _entries()
            _named[name] = _from_entry(entries[name]) if name in entries else make_backend(name, others=entries)
        return _named[name]


def register_backend(name: str, factory: Callable[..., Backend]) -> None:
    """Have ``name`` stand for ``factory``, a subclass of :class:`Backend` or a function, wherever one is named.

    Raises:
        ConfigurationError: the name is no identifier, or the factory can't be called.
    """
    if not name.isidentifier():
        raise ConfigurationError(f"register_backend({name!r}, ...): the name should be a word, as in 'mine'")
    if not callable(factory):
        raise ConfigurationError(f"register_backend({name!r}, {factory!r}): give a class or a function")
    _registered[name] = factory


def _configured() -> Backend:
    if chosen("backend", "backends") == "backends":
        return make_backend("multi")
    return make_backend(setting("backend"), setting("backend_options"))


def _entries() -> dict[str, Any]:
    """The entries of ``RATELIMIT_BACKENDS``, by name."""
    found: dict[str, Any] = {}
    for entry in setting("backends") or ():
        name = _entry(entry)[0]
        if name in found:
            raise ConfigurationError(f"backends: two are called {name!r}; give each a 'name' of its own")
        found[name] = entry
    return found


def _entry(entry: Any) -> tuple[str, str, Mapping[str, Any]]:
    """Name, type and options of an entry of ``RATELIMIT_BACKENDS``."""
    if not isinstance(entry, Mapping) or not isinstance(entry.get("type"), str):
        raise ConfigurationError(
            f"backends: {without_secrets(entry)} should have a 'type', and perhaps 'name' and 'options'"
        )
    for key in entry:
        if key not in ("type", "name", "options"):
            raise unknown_option(f"backends: {entry.get('name', entry['type'])!r}", key, ("type", "name", "options"))
    name, kind, options = entry.get("name") or entry["type"], entry["type"], entry.get("options") or {}
    if not isinstance(name, str) or not isinstance(options, Mapping):
        raise ConfigurationError(f"backends: of {kind!r}, 'name' should be a string and 'options' a dictionary")
    if kind.partition("://")[0] == "multi":
        raise ConfigurationError(f"backends: {name!r} can't be made of the others: its type is {kind!r}")
    return name, kind, options


def _from_entry(entry: Any) -> Backend:
    name, kind, options = _entry(entry)
    return make_backend(kind, {"name": name, **options})


def make_backend(backend: Any, options: Mapping[str, Any] | None = None, *, others: Iterable[str] = ()) -> Backend:
    """A backend from a URL, a name, a dotted path of a class, or itself.

    URLs: ``memory://``, ``redis://``, ``rediss://``, ``unix://``, ``redis+sentinel://``, ``redis+cluster://``,
    ``django-db://ALIAS``. Names: ``memory``, ``redis``, ``database``, ``multi``, and what was registered. ``others``
    are those that it is not, though it may have been meant.

    Raises:
        ConfigurationError: there is none such, and the message names the nearest; or it can't be made.
    """
    if isinstance(backend, Backend):
        return backend
    if not isinstance(backend, str):
        raise ConfigurationError(f"backend={without_secrets(backend)}: give a URL, a name, a dotted path or a Backend")
    options = dict(options or {})
    shown = f"backend={without_secrets(backend)}"
    factory, arguments, defaults = _factory(backend, shown, others)
    try:
        made = factory(*arguments, **{**defaults, **options})
    except (ValueError, TypeError) as error:
        near = mistyped_argument(error, _arguments(factory))
        raise ConfigurationError(f"{shown} with options {sorted(options)}: {error}{near}") from error
    except ResilienceError:
        raise
    except Exception as error:  # a class of one's own may raise anything
        raise ConfigurationError(f"{shown} can't be made: {type(error).__name__}: {error}") from error
    if not isinstance(made, Backend):
        meant = did_you_mean(backend, _PATHS)
        raise ConfigurationError(f"{shown} made a {type(made).__name__}, which is no Backend{meant}")
    return made


def _arguments(factory: Callable[..., Any]) -> list[str]:
    """Those that ``factory`` may be given by name; of a class also what it passes on to those above it."""
    found: list[str] = []
    for maker in inspect.getmro(factory) if inspect.isclass(factory) else (factory,):
        with suppress(TypeError, ValueError):  # what is built in does not always tell
            parameters = inspect.signature(maker).parameters.values()
            found += [each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
    return found


def _factory(
    backend: str, shown: str, others: Iterable[str]
) -> tuple[Callable[..., Any], tuple[str, ...], dict[str, Any]]:
    """What makes it, with its arguments and the options that the settings give."""
    scheme = backend.partition("://")[0]
    if backend in _registered:
        return _registered[backend], (), {}
    if scheme == "memory":
        from .backends.memory import MemoryBackend

        return MemoryBackend, (), {}
    if scheme == "multi":
        from .backends.multi import MultiBackend

        return MultiBackend, (), {"backends": [get_backend(name) for name in _entries()]}
    if scheme in ("database", "django-db"):
        from .backends.database import DatabaseBackend

        alias = backend.partition("://")[2]
        return DatabaseBackend, (alias,) if alias else (), {}
    if scheme in _REDIS:
        from .backends.redis_backend import RedisBackend

        return RedisBackend, (backend,) if "://" in backend else (), {}
    if _DOTTED_PATH.fullmatch(backend):
        module, _, name = backend.rpartition(".")
        try:
            return getattr(importlib.import_module(module), name), (), {}
        except Exception as error:  # a module of one's own may raise anything
            said = f"{type(error).__name__}: {error}{nearest_path(backend, _PATHS)}"
            raise ConfigurationError(f"{shown} can't be imported: {said}") from error
    names = [*_NAMES, *_registered, *others]
    known = f"known are {', '.join([*_URLS, *names])}, and dotted paths of a class"
    meant = nearest(scheme, [url.partition("://")[0] for url in _URLS], 0.7) if "://" in backend else None
    hint = did_you_mean(backend, names) if meant is None else f"; did you mean '{meant}://'?"
    raise ConfigurationError(f"{shown}: {known}{hint}")


def nearest_path(path: str, known: Iterable[str] = ()) -> str:
    """What an error about a dotted path ends with: the nearest in the same module, or of ``known``; or nothing."""
    module, _, name = path.rpartition(".")
    imported = sys.modules.get(module)
    defined = {} if imported is None else vars(imported)
    names = [*getattr(imported, "__all__", ()), *(each for each, value in defined.items() if callable(value))]
    near = nearest(name, names, 0.75)
    return did_you_mean(path, known) if near is None else f"; did you mean {f'{module}.{near}'!r}?"
