"""The definitions of this process's breakers: one for each name."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Generic, TypeVar

from .._util.clock import Clock
from .._util.templates import is_template
from ..backends.base import Backend
from ..config.breaker import CircuitBreakerConfig
from ..config.sources import setting
from ..errors import ConfigurationError
from ..store import configured
from .cache import BreakerCache

H = TypeVar("H")
MAX_INSTANCES = 1000
"""The maximum number of a template's instances in memory. If there are more, the least recently used one is dropped.

The store keeps the state of all instances.
"""


class Definition(Generic[H]):
    """One object's definition of a breaker. The first definition of a name applies to the whole process.

    Attributes:
        handle: the object, which the registry returns to callers.
        name: the breaker's name, or a template.
        options: the settings that were passed to the object.
        backend: the backend to use instead of the configured one, or None.
        clock: measures how old verdicts are.
        cache: the breaker's cache in this process; None before the first use.
        longest_run: upper bound of a call's duration, in seconds; 0 if unknown.
        is_instance: whether this defines an instance of a template. Only the template is in :data:`definitions`.
        instances: the instances of a template that are in use, by name. The one that was used last comes last.
    """

    __slots__ = ("backend", "cache", "clock", "handle", "instances", "is_instance", "longest_run", "name", "options")

    def __init__(self, handle: H, name: str, options: Mapping[str, Any], backend: Backend | None, clock: Clock) -> None:
        self.handle = handle
        self.name = name
        self.options = options
        self.backend = backend
        self.clock = clock
        self.cache: BreakerCache | None = None
        self.longest_run = 0.0
        self.is_instance = False
        self.instances: dict[str, H] = {}

    def define(self) -> None:
        """Define the breaker for this process.

        Raises:
            ConfigurationError: the breaker is already defined, with other settings or on another backend.
        """
        first = self.lookup()
        if first is self:
            return
        if not first.options and first.cache is None:  # a mere reference, which is not in use yet
            self.longest_run = first.longest_run
            definitions[self.name] = self
            return
        if first.written() != self.written():
            raise ConfigurationError(
                f"breaker {self.name!r} is defined twice, with different settings:\n"
                f"  first: {first.written()}\n  now:   {self.written()}\n"
                f"Define it once, and refer to it elsewhere with CircuitBreaker({self.name!r})."
            )
        self._check_backend(first)

    def lookup(self) -> Definition[H]:
        """Return the definition that applies to this name: the first one or, for an instance, this one."""
        return self if self.is_instance else definitions.setdefault(self.name, self)

    def resolve(self) -> BreakerCache:
        """Return the breaker's cache. From now on the breaker is in use, and can't be defined differently.

        Raises:
            ConfigurationError: the name is a template, or the breaker is defined on another backend.
        """
        if is_template(self.name):
            raise ConfigurationError(
                f"breaker {self.name!r} is a template for many breakers: decorate a function that has these arguments, "
                "or use one of the breakers, as in breaker.bind(tenant_id=7)"
            )
        definition = self.lookup()
        if definition is not self:
            self._check_backend(definition)
        with _lock:  # functions keep the cache, so all of them must get the same one
            if definition.cache is None:
                definition.cache = definition.make_cache()
            return definition.cache

    def _check_backend(self, first: Definition[H]) -> None:
        if self.backend is not None and self.backend is not first.backend:
            raise ConfigurationError(
                f"breaker {self.name!r} is defined twice, on different backends:\n"
                f"  first: {first.backend or 'the configured one'}\n  now:   {self.backend}\n"
                "Pass the first backend, or leave out backend=."
            )

    def make_cache(self, *, compared: bool = True) -> BreakerCache:
        """Make the breaker's cache, with the settings in force now.

        ``compared``: whether to compare settings with other processes. A process that sets no options never compares.
        """
        store = functools.partial(configured.get_store, self.backend)
        compared = compared and bool(self.options or setting("circuit_breaker"))
        return BreakerCache(self.config(), store, self.clock, compared=compared)

    def instance(self, name: str, make: Callable[[Definition[H], str], H]) -> H:
        """Return the breaker ``name`` of this template. If it is not in use yet, create it with ``make``."""
        with _lock:
            found = self.instances.pop(name, None)
            self.instances[name] = instance = make(self, name) if found is None else found
            if len(self.instances) > MAX_INSTANCES:
                del self.instances[next(iter(self.instances))]  # the instance that was used longest ago
            return instance

    def bound(self, name: str) -> Definition[H]:
        """Return the definition of one instance of this template, ready for use.

        The definition has no reference to the instance. A reference cycle would keep dropped instances in memory until
        the garbage collector runs.
        """
        definition = Definition(self.handle, name, self.options, self.backend, self.clock)
        definition.longest_run = self.longest_run
        definition.is_instance = True
        definition.cache = definition.make_cache()
        return definition

    def config(self) -> CircuitBreakerConfig:
        """Return the settings in force. ``longest_run``, if it is known, replaces the default of ``probe_timeout``."""
        config = self.written()
        known = "probe_timeout" in self.options or "probe_timeout" in (setting("circuit_breaker") or {})
        return config if known or not self.longest_run else replace(config, probe_timeout=self.longest_run)

    def written(self) -> CircuitBreakerConfig:
        """Return this object's options. Missing ones come from the setting ``circuit_breaker`` or the defaults."""
        defaults = CircuitBreakerConfig(self.name).with_options(setting("circuit_breaker") or {})
        return defaults.with_options(self.options)


definitions: dict[str, Definition[Any]] = {}
"""The definitions of this process, by name. To forget all definitions, clear this dictionary.

The breakers' state stays in the store.
"""
_lock = threading.Lock()


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
