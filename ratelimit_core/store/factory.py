"""Make backends from URLs, names, dotted paths and the entries of ``RATELIMIT_BACKENDS``."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from .._util.imports import nearest_path
from .._util.redact import without_secrets
from .._util.suggest import did_you_mean, mistyped_argument, nearest, unknown_option
from ..backends.base import Backend
from ..config.sources import setting
from ..errors import ConfigurationError, ResilienceError

_REDIS = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")
_URLS = ("memory://", *(f"{scheme}://" for scheme in _REDIS), "django-db://ALIAS")
_NAMES = ("memory", "redis", "database", "multi")
_PATHS = tuple(
    f"ratelimit_core.backends.{path}"
    for path in ("memory.MemoryBackend", "redis_backend.RedisBackend", "database.DatabaseBackend", "multi.MultiBackend")
)
_DOTTED_PATH = re.compile(r"\w+(\.\w+)+")
_registered: dict[str, Callable[..., Backend]] = {}


def register_backend(name: str, factory: Callable[..., Backend]) -> None:
    """Register ``factory`` under ``name``. The setting ``backend`` then accepts this name.

    Args:
        name: a Python identifier.
        factory: a subclass of :class:`Backend`, or a function that returns a backend.

    Raises:
        ConfigurationError: ``name`` is not an identifier, or ``factory`` is not callable.
    """
    if not name.isidentifier():
        raise ConfigurationError(f"register_backend({name!r}, ...): name should be an identifier, as in 'my_store'")
    if not callable(factory):
        raise ConfigurationError(f"register_backend({name!r}, {factory!r}): factory should be a class or a function")
    _registered[name] = factory


def entries() -> dict[str, Any]:
    """Return the entries of ``RATELIMIT_BACKENDS`` by name."""
    found: dict[str, Any] = {}
    for entry in setting("backends") or ():
        name = _entry(entry)[0]
        if name in found:
            raise ConfigurationError(f"backends: two entries have the name {name!r}; give each a different 'name'")
        found[name] = entry
    return found


def _entry(entry: Any) -> tuple[str, str, Mapping[str, Any]]:
    """Return the name, the type and the options of an entry of ``RATELIMIT_BACKENDS``."""
    if not isinstance(entry, Mapping) or not isinstance(entry.get("type"), str):
        raise ConfigurationError(
            f"backends: {without_secrets(entry)} should be a dictionary with a 'type', as in {{'type': 'memory'}}, and "
            "with 'name' and 'options' if needed"
        )
    for key in entry:
        if key not in ("type", "name", "options"):
            raise unknown_option(f"backends: {entry.get('name', entry['type'])!r}", key, ("type", "name", "options"))
    name, kind, options = entry.get("name") or entry["type"], entry["type"], entry.get("options") or {}
    if not isinstance(name, str) or not isinstance(options, Mapping):
        raise ConfigurationError(f"backends: in {kind!r}, 'name' should be a string and 'options' a dictionary")
    if kind.partition("://")[0] == "multi":
        hint = "leave this entry out, since all entries are combined anyway"
        raise ConfigurationError(f"backends: {name!r} can't have the type {kind!r}; {hint}")
    return name, kind, options


def from_entry(entry: Any) -> Backend:
    """Make the backend that an entry of ``RATELIMIT_BACKENDS`` describes."""
    name, kind, options = _entry(entry)
    return make_backend(kind, {"name": name, **options})


Members = Callable[[], Mapping[str, Callable[[], Backend]]]
"""A function that returns one function for each entry of ``RATELIMIT_BACKENDS``, by the entry's name.

The function for an entry returns the entry's backend.
"""


def make_backend(backend: Any, options: Mapping[str, Any] | None = None, *, members: Members = dict) -> Backend:
    """Make a backend.

    Args:
        backend: a URL, a name, or the dotted path of a class. A :class:`Backend` is returned unchanged.

            * URLs: ``memory://``, ``redis://``, ``rediss://``, ``unix://``, ``redis+sentinel://``,
              ``rediss+sentinel://``, ``redis+cluster://``, ``rediss+cluster://`` and ``django-db://ALIAS``.
            * Names: ``memory``, ``redis``, ``database``, ``multi`` and registered names.
        options: arguments of the backend's class.
        members: a function that returns the stores of ``multi``: see :data:`Members`.

    Raises:
        ConfigurationError: the name is unknown, or the backend can't be made.
    """
    if isinstance(backend, Backend):
        return backend
    if not isinstance(backend, str):
        hint = "should be a URL, a name, a dotted path or a Backend"
        raise ConfigurationError(f"backend={without_secrets(backend)} {hint}")
    options = dict(options or {})
    shown = f"backend={without_secrets(backend)}"
    factory, arguments, defaults = _factory(backend, shown, members)
    try:
        made = factory(*arguments, **{**defaults, **options})
    except (ValueError, TypeError) as error:
        near = mistyped_argument(error, _arguments(factory))
        raise ConfigurationError(f"{shown} with options {sorted(options)}: {error}{near}") from error
    except ResilienceError:
        raise
    except Exception as error:  # a custom class may raise anything
        raise ConfigurationError(f"{shown} can't be made: {type(error).__name__}: {error}") from error
    if not isinstance(made, Backend):
        meant = did_you_mean(backend, _PATHS)
        raise ConfigurationError(f"{shown} made a {type(made).__name__}, which is not a Backend{meant}")
    return made


def _arguments(factory: Callable[..., Any]) -> list[str]:
    """Return the names of the arguments of ``factory``, and of its base classes if ``factory`` is a class."""
    found: list[str] = []
    for maker in inspect.getmro(factory) if inspect.isclass(factory) else (factory,):
        with suppress(TypeError, ValueError):  # built-in classes do not always have a signature
            parameters = inspect.signature(maker).parameters.values()
            found += [each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
    return found


def _factory(backend: str, shown: str, members: Members) -> tuple[Callable[..., Any], tuple[str, ...], dict[str, Any]]:
    """Return the class or function that makes the backend, its positional arguments and its default options."""
    scheme = backend.partition("://")[0]
    if backend in _registered:
        return _registered[backend], (), {}
    if scheme == "memory":
        from ..backends.memory import MemoryBackend

        return MemoryBackend, (), {}
    if scheme == "multi":
        from ..backends.multi import MultiBackend

        return MultiBackend, (), {"backends": [member() for member in members().values()]}
    if scheme in ("database", "django-db"):
        from ..backends.database import DatabaseBackend

        alias = backend.partition("://")[2]
        return DatabaseBackend, (alias,) if alias else (), {}
    if scheme in _REDIS:
        from ..backends.redis_backend import RedisBackend

        return RedisBackend, (backend,) if "://" in backend else (), {}
    if _DOTTED_PATH.fullmatch(backend):
        module, _, name = backend.rpartition(".")
        try:
            return getattr(importlib.import_module(module), name), (), {}
        except Exception as error:  # a custom module may raise anything
            said = f"{type(error).__name__}: {error}{nearest_path(backend, _PATHS)}"
            raise ConfigurationError(f"{shown} can't be imported: {said}") from error
    names = [*_NAMES, *_registered, *members()]
    known = f"known are {', '.join([*_URLS, *names])}, and the dotted path of a class"
    meant = nearest(scheme, [url.partition("://")[0] for url in _URLS], 0.7) if "://" in backend else None
    hint = did_you_mean(backend, names) if meant is None else f"; did you mean '{meant}://'?"
    raise ConfigurationError(f"{shown}: {known}{hint}")
