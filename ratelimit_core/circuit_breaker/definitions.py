"""How the breakers of this process are defined: one definition for each name."""

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
"""So many instances of each template stay in memory, those that were used last. The store keeps the state of all."""


class Definition(Generic[H]):
    """What one object says of a breaker. The first one of a name defines it for the process.

    Attributes:
        handle: the object, which the registry hands out.
        name: the breaker's name, or a template.
        options: the settings that were written; the others are defaults.
        backend: another backend than the configured one.
        clock: measures how old verdicts are.
        cache: what this process knows of the breaker, once it is in use.
        longest_run: no call lasts longer than so many seconds; 0 if that is not known.
        is_instance: it is the definition of one instance of a template. The registry knows the template only.
        instances: of a template, the breakers that are in use, by name; the one that was used last comes last.
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
            ConfigurationError: it is defined already, with other settings or on another backend.
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
        """Return the definition of this name, which is this one if there is no other, or if it is an instance's."""
        return self if self.is_instance else definitions.setdefault(self.name, self)

    def resolve(self) -> BreakerCache:
        """Return what this process knows of the breaker. From now on it is in use, and can't be defined otherwise.

        Raises:
            ConfigurationError: the name is a template, or the breaker is defined on another backend.
        """
        if is_template(self.name):
            raise ConfigurationError(
                f"breaker {self.name!r} stands for many: decorate a function that has these arguments, or name one, "
                "as in breaker.bind(tenant_id=7)"
            )
        definition = self.lookup()
        if definition is not self:
            self._check_backend(definition)
        with _lock:  # functions that share a breaker keep its cache, so there must be one
            if definition.cache is None:
                definition.cache = definition.make_cache()
            return definition.cache

    def _check_backend(self, first: Definition[H]) -> None:
        if self.backend is not None and self.backend is not first.backend:
            raise ConfigurationError(
                f"breaker {self.name!r} is defined twice, on different backends:\n"
                f"  first: {first.backend or 'the configured one'}\n  now:   {self.backend}"
            )

    def make_cache(self, *, compared: bool = True) -> BreakerCache:
        """Make what a process knows of the breaker, by the settings in force now.

        ``compared``: if this process says anything of the settings, it notices another process that says otherwise.
        """
        store = functools.partial(configured.get_store, self.backend)
        compared = compared and bool(self.options or setting("circuit_breaker"))
        return BreakerCache(self.config(), store, self.clock, compared=compared)

    def instance(self, name: str, make: Callable[[Definition[H], str], H]) -> H:
        """Return the breaker ``name`` of this template, and ``make`` it if it is not in use yet."""
        with _lock:
            found = self.instances.pop(name, None)
            self.instances[name] = instance = make(self, name) if found is None else found
            if len(self.instances) > MAX_INSTANCES:
                del self.instances[next(iter(self.instances))]  # the one that was used longest ago
            return instance

    def bound(self, name: str) -> Definition[H]:
        """Return the definition of one instance of this template, ready for use.

        It does not hold the instance: in a circle, instances that are dropped would wait for the garbage collector.
        """
        definition = Definition(self.handle, name, self.options, self.backend, self.clock)
        definition.longest_run = self.longest_run
        definition.is_instance = True
        definition.cache = definition.make_cache()
        return definition

    def config(self) -> CircuitBreakerConfig:
        """Return the settings in force, with ``longest_run`` as the ``probe_timeout`` if none was written."""
        config = self.written()
        known = "probe_timeout" in self.options or "probe_timeout" in (setting("circuit_breaker") or {})
        return config if known or not self.longest_run else replace(config, probe_timeout=self.longest_run)

    def written(self) -> CircuitBreakerConfig:
        """Return the settings as they are written: the options, and the setting ``circuit_breaker`` for the others."""
        defaults = CircuitBreakerConfig(self.name).with_options(setting("circuit_breaker") or {})
        return defaults.with_options(self.options)


definitions: dict[str, Definition[Any]] = {}
"""The definitions of this process, by name. Clear it to forget them; the state of the breakers is in the store."""
_lock = threading.Lock()


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
