"""The class :class:`CircuitBreaker`, a handle on the breaker of a given name."""

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
    """A breaker, identified by its name. All objects with one name, in all processes on one backend, share one state.

    ``CircuitBreaker("payments", failure_threshold=3)`` defines a breaker, and so does
    ``CircuitBreaker(CircuitBreakerConfig("payments"))``, which sets all options. Options that keyword arguments leave
    out come from the setting ``circuit_breaker``, and otherwise from the defaults. ``CircuitBreaker("payments")``
    refers to a breaker, whose definition is looked up at first use. Without a definition in this process, all options
    come from the setting and the defaults.

    A name with arguments, such as ``"payments:{tenant_id}"``, is a template for many breakers with the same options,
    one for each tenant. A template can decorate functions that have these arguments. :meth:`bind` returns the breaker
    of one tenant. On the template itself, methods that need a breaker's state raise :class:`ConfigurationError`.

    Guard a call in one of these forms::

        breaker.call(charge, order)          # or breaker.call_with_fallback(charge, cached, order)
        with breaker: ...                    # raises CircuitBreakerError if the breaker rejects the call
        @breaker                             # decorates a function or a coroutine function
        permit = breaker.acquire(); ...; permit.success()

    A successful call costs no round trip while the breaker is closed and the cached verdict has not expired.
    Refreshing the verdict costs one round trip. Reporting a failure, a slow call, a probe or the first success after a
    failure costs one round trip, too. A change of state costs one more, for the history.

    Args:
        breaker: the breaker's name, a template, or a whole configuration.
        backend: the backend to use instead of the configured one.
        clock: measures the age of verdicts. Tests may replace the clock.
        options: settings, as in :class:`CircuitBreakerConfig`.

    Raises:
        ConfigurationError: the name or an option is wrong, or the breaker is already defined differently.
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
            CircuitBreakerConfig(breaker).with_options(options)  # raise for wrong options here, not at first use
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
        """Return what a call needs. This object's own fallback takes precedence over the definition's fallback."""
        cache = self._cache or self._resolve()
        return cache, self._definition.options.get("fallback_function") or cache.config.fallback_function

    def bind(self, **values: Any) -> CircuitBreaker:
        """Return the breaker of a template for these values: ``CircuitBreaker("mail:{tenant}").bind(tenant=7)``.

        Raises:
            ConfigurationError: a value is missing, or the template names a part that a value does not have.
        """
        try:
            return self._instance(self.name.format_map(values))
        except (KeyError, AttributeError, IndexError) as error:
            what = f"leaves out {error}; pass its value by name"
            if not isinstance(error, KeyError):
                what = f"has a value that does not fit the template: {error}; pass a value with this part"
            raise ConfigurationError(f"breaker {self.name!r}: bind({', '.join(values)}) {what}") from None

    def _instance(self, name: str) -> CircuitBreaker:
        template = self._definition.lookup()
        return template.instance(known_by(name), self._make_instance)  # shortens what a client may send

    @staticmethod
    def _make_instance(template: Definition[CircuitBreaker], name: str) -> CircuitBreaker:
        instance = copy.copy(template.handle)
        instance._hold(template.bound(name))
        return instance

    def extend_probe_timeout(self, seconds: float) -> None:
        """Set ``probe_timeout`` to ``seconds``, the longest duration of a call, unless ``probe_timeout`` is configured.

        If this method is called several times, the longest duration counts. A breaker that is already in use does not
        change.
        """
        definition = self._definition.lookup()
        definition.longest_run = max(definition.longest_run, seconds)

    @property
    def options(self) -> Mapping[str, Any]:
        """The options that were passed to this object."""
        return self._definition.options

    @property
    def config(self) -> CircuitBreakerConfig:
        """The settings in force."""
        return self._resolve().config

    def acquire(self, lease_id: str = "") -> Permit:
        """Acquire a permit for one call. Settle it with ``success()``, ``failure(error)`` or ``cancel()``.

        If the call is a probe, ``lease_id`` becomes the id of the probe's lease. A caller that acquires twice with the
        same ``lease_id`` holds one lease.

        Raises:
            CircuitBreakerError: the breaker rejects the call. ``retry_after`` says in how many seconds to ask again.
        """
        return acquire(self._cache or self._resolve(), lease_id)

    async def aacquire(self, lease_id: str = "") -> Permit:
        """Do as :meth:`acquire` does, without blocking the event loop.

        Settle the permit with ``asuccess()``, ``afailure(error)`` or ``acancel()``.
        """
        return await aacquire(self._cache or self._resolve(), lease_id)

    def call(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call ``function`` and record the outcome. If the breaker rejects the call, call ``fallback_function``.

        For a coroutine function, return an awaitable. The permit is acquired when the awaitable is awaited.

        Raises:
            CircuitBreakerError: the breaker rejects the call, and ``fallback_function`` is not set.
        """
        call: Callable[..., Any] = wrap.acall if is_asynchronous(function) else wrap.call
        result: R = call(self._target(), function, args, kwargs)
        return result

    def call_with_fallback(
        self, function: Callable[P, R], fallback: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Call ``function``. If the breaker rejects the call, call ``fallback`` with the same arguments."""
        call: Callable[..., Any] = wrap.acall if is_asynchronous(function) else wrap.call
        result: R = call((self._cache or self._resolve(), fallback), function, args, kwargs)
        return result

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Decorate a function or a coroutine function.

        Raises:
            ConfigurationError: ``function`` is a generator function, whose body has not run yet when a call returns.
                This error is also raised for a malformed template, and for an argument that ``function`` lacks.
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
        if permit is not None:  # otherwise this process was forked inside the block, and the parent settles the permit
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
        """Report the outcome of a call whose own process was killed.

        A failure counts if the breaker's state has not changed since the call began. The probe's lease is released even
        if the failure does not count. While the store is unavailable, nothing is reported or released.

        Costs one round trip, and one more for the history if the breaker's state changes.

        Args:
            error: an error, which counts as a failure even if the breaker does not expect such an exception. None:
                report no outcome, and only release the lease.
            started_ago: the seconds since the call began.
            lease_id: the id of the probe's lease, if the call was a probe.
            extra_calls: calls to the store to send in the same round trip.
        """
        cache = self._resolve()
        drive(report_external(cache, error, started_ago, lease_id, extra_calls), cache.store)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"


def cache_of(breaker: CircuitBreaker) -> BreakerCache:
    """Return the breaker's cache in this process, for guards, metrics and test helpers of this project."""
    return breaker._cache or breaker._resolve()


def definition_of(breaker: CircuitBreaker) -> Definition[CircuitBreaker]:
    """Return this object's own definition of the breaker, even if another object has defined the breaker."""
    return breaker._definition


def refer_to(name: str) -> CircuitBreaker:
    """Return a handle on the breaker ``name``, without defining the breaker or putting it in use."""
    breaker = CircuitBreaker(name)
    breaker._cache = breaker._definition.make_cache(compared=False)
    return breaker
