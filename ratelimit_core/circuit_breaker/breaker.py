"""Circuit breakers: one shared state for each dependency, in all processes that share a backend."""

from __future__ import annotations

import copy
import functools
import inspect
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import replace
from inspect import isawaitable
from types import CoroutineType, TracebackType
from typing import Any, ParamSpec, TypeVar, cast

from .._util.aio import acquired, awaited
from .._util.callables import is_asynchronous, is_asynchronous_view
from .._util.clock import Clock, microseconds, monotonic
from .._util.ids import new_ticket
from .._util.templates import Template, is_template
from ..backends.base import Backend
from ..config.breaker import OPTIONS, CircuitBreakerConfig, check_name
from ..config.sources import setting
from ..errors import CircuitBreakerError, ConfigurationError
from ..protocol.call import Call
from ..protocol.names import known_by
from ..store import configured
from ..store.drive import arun, run
from .aio import judged, settled
from .cache import BreakerState
from .operator import ManualControl
from .permit import Permit
from .registry import CircuitBreakerRegistry

P = ParamSpec("P")
R = TypeVar("R")


class CircuitBreaker(ManualControl):
    """A breaker by its name. All objects of one name, in all processes on one backend, are one breaker.

    ``CircuitBreaker("payments", failure_threshold=3)`` defines it, and so does
    ``CircuitBreaker(CircuitBreakerConfig("payments"))``; ``CircuitBreaker("payments")`` refers to it, and is
    resolved at first use. What a definition leaves out comes from the setting ``circuit_breaker``; in a process that
    only refers to a breaker, so does everything.

    A name with arguments in it, ``"payments:{tenant_id}"``, stands for many breakers with the same settings: one for
    each tenant. It decorates functions that have such an argument; :meth:`bind` names one.

    It guards a call in whichever form suits::

        breaker.call(charge, order)          # or breaker.call_with_fallback(charge, cached, order)
        with breaker: ...                    # raises CircuitBreakerError if refused
        @breaker                             # a function, also an async one
        permit = breaker.acquire(); ...; permit.success()

    Cost of a call: no round trip while the breaker is closed and the last answer younger than
    ``cache_ttl``; one for a failure, one for each refresh.

    Args:
        breaker: the name, or a whole configuration.
        backend: another backend than the configured one.
        clock: what ages are measured with; for tests.
        options: settings, as in :class:`CircuitBreakerConfig`.

    Raises:
        ConfigurationError: an unknown or wrong setting, or a name that is defined differently already.
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
        self.name = name = breaker
        self._options = options
        self._backend = backend
        self._clock = clock
        self._state: BreakerState | None = None
        self._longest_run = 0.0
        self._family: OrderedDict[str, CircuitBreaker] = OrderedDict()
        if options:
            CircuitBreakerConfig(name).with_options(options)  # wrong options are refused here, not at first use
            circuit_breaker_registry._define(self)

    def bind(self, **values: Any) -> CircuitBreaker:
        """Of a template, the breaker for these values: ``CircuitBreaker("payments:{tenant_id}").bind(tenant_id=7)``."""
        try:
            return self._named(self.name.format_map(values))
        except (KeyError, AttributeError, IndexError) as error:
            raise ConfigurationError(f"breaker {self.name!r}: bind({', '.join(values)}) leaves out {error}") from None

    def _named(self, name: str) -> CircuitBreaker:
        """One of a template's. A process keeps those in use of late; their state is in the store."""
        name = known_by(name)  # not a megabyte that a client has sent
        with _lock:
            one = self._family.pop(name, None)
            if one is None:
                definition = circuit_breaker_registry._breakers.setdefault(self.name, self)
                one = copy.copy(definition)
                one.name, one._family = name, OrderedDict()
                one._state = one._made()
            self._family[name] = one
            if len(self._family) > _MAX_FAMILY:
                self._family.popitem(last=False)
            return one

    def _made(self) -> BreakerState:
        store = functools.partial(configured.get_store, self._backend)
        defined = bool(self._options or setting("circuit_breaker"))
        return BreakerState(self._configured(), store, self._clock, defined=defined)

    @property
    def _known(self) -> BreakerState:
        if self._state is None:
            if is_template(self.name):
                raise ConfigurationError(
                    f"breaker {self.name!r} stands for many: decorate a function that has these arguments, or name "
                    "one, as in breaker.bind(tenant_id=7)"
                )
            definition = circuit_breaker_registry._breakers.setdefault(self.name, self)
            if definition is not self:
                circuit_breaker_registry._check_backend(definition, self)
                self._state = definition._known
            else:
                self._state = self._made()
        return self._state

    def extend_probe_timeout(self, seconds: float) -> None:
        """No call through this breaker lasts longer; so ``probe_timeout`` need not be longer, nor may it be shorter.

        Of several such limits the longest counts, and whoever set ``probe_timeout`` knows better.
        """
        definition = circuit_breaker_registry._breakers.setdefault(self.name, self)
        if definition._state is None:
            definition._longest_run = max(definition._longest_run, seconds)

    def _configured(self) -> CircuitBreakerConfig:
        config = self._defined()
        known = "probe_timeout" in self._options or "probe_timeout" in (setting("circuit_breaker") or {})
        return config if known or not self._longest_run else replace(config, probe_timeout=self._longest_run)

    def _defined(self) -> CircuitBreakerConfig:
        defaults = CircuitBreakerConfig(self.name).with_options(setting("circuit_breaker") or {})
        return defaults.with_options(self._options)

    @property
    def _fallback(self) -> Callable[..., Any] | None:
        """Its own, or the definition's: one breaker may guard several functions."""
        return self._options.get("fallback_function") or self._known.config.fallback_function

    @property
    def options(self) -> Mapping[str, Any]:
        """The settings that it was defined with; the others are defaults."""
        return self._options

    @property
    def config(self) -> CircuitBreakerConfig:
        """The settings in force."""
        return self._known.config

    def acquire(self, ticket: str = "") -> Permit:
        """Leave for one call, to be settled with ``success()``, ``failure(error)`` or ``cancel()``.

        ``ticket`` names the lease if the call turns out to be a probe; who asks twice with one ticket holds
        one place.

        Raises:
            CircuitBreakerError: refused; ``retry_after`` says when to ask again.
        """
        state = self._state or self._known
        permit = state.permit_if_fresh()
        return run(state.asking(ticket or new_ticket()), state.store) if permit is None else permit

    async def aacquire(self, ticket: str = "") -> Permit:
        """:meth:`acquire` without blocking the event loop; settle it with ``asuccess()`` and the like."""
        state = self._state or self._known
        permit = state.permit_if_fresh()
        if permit is None:
            permit = await acquired(arun(state.asking(ticket or new_ticket()), state.store), Permit.acancel)
        return permit

    def call(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call ``function`` and record the outcome; refused, call ``fallback_function`` if there is one.

        Of a coroutine function it returns what is to be awaited, and asks only then.

        Raises:
            CircuitBreakerError: refused, and there is no fallback.
        """
        result: R = self._call(function, self._fallback, args, kwargs)
        return result

    def call_with_fallback(
        self, function: Callable[P, R], fallback: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Call ``function``; refused, call ``fallback`` with the same arguments."""
        result: R = self._call(function, fallback, args, kwargs)
        return result

    def _call(
        self, function: Callable[..., Any], fallback: Callable[..., Any] | None, args: Any, kwargs: dict[str, Any]
    ) -> Any:
        if is_asynchronous(function):
            return self._call_async(function, fallback, args, kwargs)
        return self._call_at_once(function, fallback, args, kwargs)

    def _call_at_once(
        self, function: Callable[..., Any], fallback: Callable[..., Any] | None, args: Any, kwargs: dict[str, Any]
    ) -> Any:
        try:
            permit = self.acquire()
        except CircuitBreakerError:
            if fallback is None:
                raise
            return fallback(*args, **kwargs)
        try:
            result = permit.run(function, *args, **kwargs)
        except BaseException as error:
            permit.record(error)
            raise
        return self._settled(permit, result)

    async def _call_async(
        self, function: Callable[..., Any], fallback: Callable[..., Any] | None, args: Any, kwargs: dict[str, Any]
    ) -> Any:
        try:
            permit = await self.aacquire()
        except CircuitBreakerError:
            if fallback is None:
                raise
            return await awaited(fallback(*args, **kwargs))
        return await judged(permit, functools.partial(function, *args, **kwargs))

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Decorate a function or a coroutine function.

        Raises:
            ConfigurationError: a generator function, which has not run yet when it returns.
        """
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise ConfigurationError(
                f"breaker {self.name!r} can't record the generator {function.__qualname__}(), which runs only after "
                "it was called; guard what it calls, or its loop by `with CircuitBreaker(...):`"
            )
        pick = self._picker(function)
        may_be_views = getattr(function, "__name__", "") == "dispatch"
        if is_asynchronous(function) and not is_template(self.name):
            guarded = cast(Callable[P, R], self._guarding_async(function))
        elif is_asynchronous(function):

            @functools.wraps(function)
            async def guarded_async(*args: P.args, **kwargs: P.kwargs) -> Any:
                breaker = pick(args, kwargs)
                return await breaker._call_async(function, breaker._fallback, args, kwargs)

            guarded = cast(Callable[P, R], guarded_async)
        elif not (is_template(self.name) or may_be_views):
            guarded = self._guarding(function)
        else:

            @functools.wraps(function)
            def guarded_sync(*args: P.args, **kwargs: P.kwargs) -> R:
                breaker = pick(args, kwargs)
                awaits = may_be_views and is_asynchronous_view(args[0] if args else None)
                call: Callable[..., Any] = breaker._call_async if awaits else breaker._call_at_once
                result: R = call(function, breaker._fallback, args, kwargs)
                return result

            guarded = guarded_sync
        guarded.circuit_breaker = self  # type: ignore[attr-defined] # the documented way to reach the breaker
        return guarded

    def _guarding(self, function: Callable[P, R]) -> Callable[P, R]:
        """The commonest case: while the breaker is known to be closed, a call that answers costs as little as can be.

        No lock, no permit, no round trip: the call is counted where it is. Whatever else happens takes the long way.
        """

        @functools.wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            state = self._state or self._known
            known = state.known
            began = state.clock()
            if began >= known[0]:
                result: R = self._call_at_once(function, self._fallback, args, kwargs)
                return result
            try:
                result = function(*args, **kwargs)
            except BaseException as error:
                state.permit_of(known, began).record(error)
                raise
            if state.known is known and type(result) is not CoroutineType:
                state.successes += 1
                state.good_at = state.clock()
                state.good += 1
                return result
            settled: R = self._settled(state.permit_of(known, began), result)
            return settled

        return guarded

    def _guarding_async(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same for what is awaited."""

        @functools.wraps(function)
        async def guarded(*args: Any, **kwargs: Any) -> Any:
            state = self._state or self._known
            known = state.known
            began = state.clock()
            if began >= known[0]:
                return await self._call_async(function, self._fallback, args, kwargs)
            try:
                result = function(*args, **kwargs)
                if isawaitable(result):
                    result = await result
            except GeneratorExit:  # closed, and may not await
                raise
            except BaseException as error:
                permit = state.permit_of(known, began)
                await settled(permit, permit.record_steps(error))
                raise
            if state.known is known:
                state.successes += 1
                state.good_at = state.clock()
                state.good += 1
            else:
                permit = state.permit_of(known, began)
                await settled(permit, permit.record_result_steps(result))
            return result

        return guarded

    def _settled(self, permit: Permit, result: Any) -> Any:
        """Judge what a function returned; what is awaited still, when it is."""
        if isinstance(result, CoroutineType):
            return judged(permit, lambda: result)
        permit.record_result(result)
        return result

    def _picker(self, function: Callable[..., Any]) -> Callable[[Any, Any], CircuitBreaker]:
        """Which breaker guards a call of ``function``, by its arguments."""
        if not is_template(self.name):
            return lambda args, kwargs: self
        template = Template(self.name, inspect.signature(function), "breaker")
        return lambda args, kwargs: self._named(template.render(args, kwargs))

    def __enter__(self) -> Permit:
        permit = self.acquire()
        _entered.set((*_entered.get(), permit))
        return permit

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        permit = self._take(_entered)
        if permit is not None:  # or else this process was forked within the block, which is its parent's to end
            permit.record(error)

    async def __aenter__(self) -> Permit:
        permit = await self.aacquire()
        _entered.set((*_entered.get(), permit))
        return permit

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        permit = self._take(_entered)
        if permit is not None:
            await settled(permit, permit.record_steps(error))

    def is_allowed(self) -> bool:
        """Whether a call may be made now. If so, follow it with one of the two reports below.

        In the same thread or task: a report made elsewhere counts, but can't give a probe's place back.
        """
        try:
            permit = self.acquire()
        except CircuitBreakerError:
            return False
        _unclaimed.set((*_unclaimed.get()[-_MAX_UNCLAIMED:], permit))
        return True

    def report_success(self) -> None:
        """The call that :meth:`is_allowed` allowed has answered."""
        (self._take(_unclaimed) or self._known.witness()).success()

    def report_failure(self, error: BaseException | None = None) -> None:
        """The call that :meth:`is_allowed` allowed, or some other that was not asked for, has failed."""
        (self._take(_unclaimed) or self._known.witness()).failure(error)

    def _take(self, permits: ContextVar[tuple[Permit, ...]]) -> Permit | None:
        """The newest that is this breaker's, in this thread or task."""
        state, known = self._known, permits.get()
        for permit in reversed(known):
            if permit._state is state:
                permits.set(tuple(other for other in known if other is not permit))
                return permit
        return None

    def peek(self, refresh: bool = False) -> tuple[str, float]:
        """How it stands, for somebody who makes no call: its state, and for how many seconds it refuses.

        Open or half-open and 0: it may be probed. Takes no probe's place and, unlike :meth:`acquire`, is never told
        of an outcome. No round trip while the last answer may be reused, unless ``refresh``; else one. While the
        store is unavailable, a known opening holds to its deadline; else it is closed.
        """
        return self._known.look(refresh)

    def report_external(
        self, error: BaseException | None, *, started_ago: float, ticket: str = "", extra_calls: Sequence[Call] = ()
    ) -> None:
        """Say how a call ended whose own process can't: one that was killed, say. One round trip.

        It began ``started_ago`` seconds ago, and counts if the breaker has not changed since. ``error`` is a failure,
        whatever else is expected; None says nothing of the call. Either way the probe's place of ``ticket`` is free.
        ``extra_calls`` go along. While the store is away nothing is said.
        """
        self._known.report_external(error, started_ago, ticket, extra_calls)

    def refusal(self, retry_after: float) -> CircuitBreakerError:
        """The error that tells somebody to wait ``retry_after`` seconds for this breaker."""
        return self._known.refusal(microseconds(retry_after))

    def refused(self, retry_after: float) -> CircuitBreakerError:
        """The same, for a call that is refused for that: it counts in :attr:`stats`."""
        return self._known.refused(microseconds(retry_after))

    @property
    def state(self) -> str:
        """``"closed"``, ``"open"`` or ``"half_open"``, from the store: one round trip."""
        return cast(str, self.get_status()["state"])

    @property
    def stats(self) -> dict[str, int]:
        """What this process saw: ``successes``, ``failures``, ``rejections``, ``shadow_rejections``. No round trip.

        The last are the calls that would have been refused, but for the shadow.
        """
        return self._known.stats()

    def get_status(self) -> dict[str, Any]:
        """How the breaker is, from the store: one round trip, or two where a mode is in force.

        ``name``, ``state`` (as callers feel it), ``failure_count``, ``failure_threshold``, ``last_failure_time``,
        ``changed_at``, ``next_attempt_time`` (while open, else None), ``backoff_time`` (the length of the present
        or latest wait), ``half_open_calls`` (probes under way), ``stats`` (of this process), ``shadow`` (nobody is
        refused), and ``mode``, ``mode_until``, ``author``, ``reason``. Times are seconds since the epoch on the store's
        clock; None where there was none.
        """
        return self._known.status()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"


_entered: ContextVar[tuple[Permit, ...]] = ContextVar("entered", default=())
_unclaimed: ContextVar[tuple[Permit, ...]] = ContextVar("unclaimed", default=())
_MAX_UNCLAIMED = 100
_MAX_FAMILY = 1000
_lock = threading.Lock()


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    for permits in (_entered, _unclaimed):  # they are the parent's to settle
        permits.set(())


os.register_at_fork(after_in_child=_after_fork)
os.register_at_fork(after_in_child=lambda: _unclaimed.set(()))  # they are the parent's to report


circuit_breaker_registry = CircuitBreakerRegistry(CircuitBreaker)
