"""The class :class:`CircuitBreaker`: a handle on a breaker, by its name."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from .._util.callables import is_asynchronous
from .._util.clock import Clock, monotonic
from .._util.templates import Template, is_template
from ..backends.base import Backend
from ..config.breaker import OPTIONS, CircuitBreakerConfig, check_name
from ..errors import ConfigurationError
from ..protocol.call import Call
from ..protocol.names import known_by
from ..store.drive import drive
from . import wrap
from .acquire import aacquire, acquire
from .aio import settle
from .cache import BreakerCache
from .definitions import Definition
from .legacy import SeparateReports
from .operator import ManualControl
from .permit import Permit, PermitStack
from .settle import report_external

P = ParamSpec("P")
R = TypeVar("R")
_entered = PermitStack("entered")
"""The permits of the ``with`` blocks that this thread or task is in."""


class CircuitBreaker(ManualControl, SeparateReports):
    """A breaker by its name. All objects of one name, in all processes on one backend, are one breaker.

    ``CircuitBreaker("payments", failure_threshold=3)`` defines it, and so does
    ``CircuitBreaker(CircuitBreakerConfig("payments"))``. ``CircuitBreaker("payments")`` refers to it, and is resolved
    at first use. Options that a definition leaves out come from the setting ``circuit_breaker``. A process that only
    refers to a breaker takes all options from there.

    A name with arguments in it, ``"payments:{tenant_id}"``, stands for many breakers with the same options, one for
    each tenant. It decorates functions that have such an argument; :meth:`bind` names one of them.

    A call is guarded in one of these forms::

        breaker.call(charge, order)          # or breaker.call_with_fallback(charge, cached, order)
        with breaker: ...                    # raises CircuitBreakerError if rejected
        @breaker                             # a function, also an async one
        permit = breaker.acquire(); ...; permit.success()

    Cost of a call: no round trip while the breaker is closed and the cached verdict is younger than ``cache_ttl``; one
    for a failure, one for each refresh.

    Args:
        breaker: the name, or a whole configuration.
        backend: another backend than the configured one.
        clock: measures how old verdicts are; for tests.
        options: settings, as in :class:`CircuitBreakerConfig`.

    Raises:
        ConfigurationError: an unknown or wrong option, or a name that is defined differently already.
    """

    def __init__(
        self,
        breaker: str | CircuitBreakerConfig,
        *,
        backend: Backend | None = None,
        clock: Clock = monotonic,
        **options: Any,
    ) -> None:
        if isinstance(breaker, CircuitBreakerConfig):
            options = {option: getattr(breaker, option) for option in OPTIONS} | options
            breaker = breaker.name
        check_name(breaker)
        if not breaker:
            raise ConfigurationError("a breaker needs a name, as in CircuitBreaker('payments')")
        self._hold(Definition(self, breaker, options, backend, clock))
        if options:
            CircuitBreakerConfig(breaker).with_options(options)  # wrong options are refused here, not at first use
            self._definition.define()

    def _hold(self, definition: Definition[CircuitBreaker]) -> None:
        self.name = definition.name
        self._definition = definition
        self._cache = definition.cache

    def _resolve(self) -> BreakerCache:
        if self._cache is None:
            self._cache = self._definition.resolve()
        return self._cache

    def _target(self) -> wrap.Target:
        """Return what a call needs. Its own fallback comes first, since one breaker may guard several functions."""
        cache = self._cache or self._resolve()
        return cache, self._definition.options.get("fallback_function") or cache.config.fallback_function

    def bind(self, **values: Any) -> CircuitBreaker:
        """Return the breaker of a template for these values: ``CircuitBreaker("mail:{tenant}").bind(tenant=7)``.

        Raises:
            ConfigurationError: a value is missing.
        """
        try:
            return self._instance(self.name.format_map(values))
        except (KeyError, AttributeError, IndexError) as error:
            raise ConfigurationError(f"breaker {self.name!r}: bind({', '.join(values)}) leaves out {error}") from None

    def _instance(self, name: str) -> CircuitBreaker:
        template = self._definition.lookup()
        return template.instance(known_by(name), self._make_instance)  # cut: a client may send a megabyte

    @staticmethod
    def _make_instance(template: Definition[CircuitBreaker], name: str) -> CircuitBreaker:
        instance = copy.copy(template.handle)
        instance._hold(template.bound(name))
        return instance

    def extend_probe_timeout(self, seconds: float) -> None:
        """Have ``probe_timeout`` be as long as the longest call. It has no effect if ``probe_timeout`` was written.

        Of several such limits the longest counts. Once the breaker is in use, its ``probe_timeout`` stays.
        """
        definition = self._definition.lookup()
        definition.longest_run = max(definition.longest_run, seconds)

    @property
    def options(self) -> Mapping[str, Any]:
        """The options that it was defined with; the others are defaults."""
        return self._definition.options

    @property
    def config(self) -> CircuitBreakerConfig:
        """The settings in force."""
        return self._resolve().config

    def acquire(self, lease_id: str = "") -> Permit:
        """Acquire a permit for one call. Settle it with ``success()``, ``failure(error)`` or ``cancel()``.

        ``lease_id`` names the probe's lease, if the call turns out to be a probe. A caller that asks twice with one
        ``lease_id`` holds one place.

        Raises:
            CircuitBreakerError: the breaker rejects; ``retry_after`` says when to ask again.
        """
        return acquire(self._cache or self._resolve(), lease_id)

    async def aacquire(self, lease_id: str = "") -> Permit:
        """Do as :meth:`acquire` does, without blocking the event loop. Settle it with ``asuccess()`` and the like."""
        return await aacquire(self._cache or self._resolve(), lease_id)

    def call(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call ``function`` and record the outcome. If the breaker rejects, call ``fallback_function`` if there is one.

        Of a coroutine function it returns an awaitable, and acquires the permit once that is awaited.

        Raises:
            CircuitBreakerError: the breaker rejects, and there is no fallback.
        """
        call: Callable[..., Any] = wrap.acall if is_asynchronous(function) else wrap.call
        result: R = call(self._target(), function, args, kwargs)
        return result

    def call_with_fallback(
        self, function: Callable[P, R], fallback: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Call ``function``. If the breaker rejects, call ``fallback`` with the same arguments."""
        call: Callable[..., Any] = wrap.acall if is_asynchronous(function) else wrap.call
        result: R = call((self._cache or self._resolve(), fallback), function, args, kwargs)
        return result

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Decorate a function or a coroutine function.

        Raises:
            ConfigurationError: a generator function, which has not run yet when it returns.
        """
        wrap.reject_generators(self.name, function)
        if is_template(self.name):
            template = Template(self.name, inspect.signature(function), "breaker")
            guarded = wrap.wrap_by_arguments(
                function, lambda args, kwargs: self._instance(template.render(args, kwargs))._target()
            )
        else:
            guarded = wrap.wrap(function, self._target)
        guarded.circuit_breaker = self  # type: ignore[attr-defined] # the documented way to reach the breaker
        return guarded

    def __enter__(self) -> Permit:
        permit = self.acquire()
        _entered.push(permit)
        return permit

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        permit = _entered.take(self._resolve())
        if permit is not None:  # else this process was forked within the block, and its parent settles the permit
            permit.record(error)

    async def __aenter__(self) -> Permit:
        permit = await self.aacquire()
        _entered.push(permit)
        return permit

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        permit = _entered.take(self._resolve())
        if permit is not None:
            await settle(permit, permit.record_steps(error))

    def report_external(
        self, error: BaseException | None, *, started_ago: float, lease_id: str = "", extra_calls: Sequence[Call] = ()
    ) -> None:
        """Report how a call ended whose own process can't, because it was killed. One round trip.

        The call began ``started_ago`` seconds ago, and counts if the breaker has not changed since. ``error`` is a
        failure, whatever the breaker is configured to expect; None says nothing of the call. In both cases the probe's
        place of ``lease_id`` is free again. ``extra_calls`` go along. While the store is unavailable nothing is
        reported.
        """
        cache = self._resolve()
        drive(report_external(cache, error, started_ago, lease_id, extra_calls), cache.store)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"


def cache_of(breaker: CircuitBreaker) -> BreakerCache:
    """Return what this process knows of the breaker: for guards, metrics and test helpers of this project."""
    return breaker._cache or breaker._resolve()


def definition_of(breaker: CircuitBreaker) -> Definition[CircuitBreaker]:
    """Return what this object says of the breaker; another one may have defined it."""
    return breaker._definition


def refer_to(name: str) -> CircuitBreaker:
    """Return a handle on the breaker ``name`` that neither defines it for this process nor puts it in use."""
    breaker = CircuitBreaker(name)
    breaker._cache = breaker._definition.make_cache(compared=False)
    return breaker
