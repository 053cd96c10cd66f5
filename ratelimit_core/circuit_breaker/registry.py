"""The breakers that a process knows, and those that its store knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from .._util.templates import is_template
from ..config.breaker import OPTIONS, CircuitBreakerConfig
from ..errors import ConfigurationError
from ..policies import BREAKER
from ..policies.breaker import PEEK
from ..protocol.breaker import MODE, status
from ..protocol.call import Call
from ..store import configured
from . import history

if TYPE_CHECKING:
    from .breaker import CircuitBreaker

_AT_A_TIME = 500
"""So many breakers are looked at in one round trip."""


class CircuitBreakerRegistry:
    """The breakers that this process has defined or used, by name."""

    def __init__(self, make: Callable[..., CircuitBreaker]) -> None:
        self._make = make
        self._breakers: dict[str, CircuitBreaker] = {}

    def _define(self, breaker: CircuitBreaker) -> None:
        known = self._breakers.setdefault(breaker.name, breaker)
        if known is breaker:
            return
        if not known._options and known._state is None:  # a mere reference, not used yet
            breaker._longest_run = known._longest_run
            self._breakers[breaker.name] = breaker
            return
        if known._defined() != breaker._defined():
            raise ConfigurationError(
                f"breaker {breaker.name!r} is defined twice, with different settings:\n"
                f"  first: {known._defined()}\n  now:   {breaker._defined()}\n"
                f"Define it once, and refer to it elsewhere with CircuitBreaker({breaker.name!r})."
            )
        self._check_backend(known, breaker)

    def _check_backend(self, known: CircuitBreaker, breaker: CircuitBreaker) -> None:
        if breaker._backend is not None and breaker._backend is not known._backend:
            raise ConfigurationError(
                f"breaker {breaker.name!r} is defined twice, on different backends:\n"
                f"  first: {known._backend or 'the configured one'}\n  now:   {breaker._backend}"
            )

    def get_or_create(self, name: str, config: CircuitBreakerConfig | dict[str, Any] | None = None) -> CircuitBreaker:
        """The breaker ``name``, defined with ``config`` if it is not yet known.

        Raises:
            ConfigurationError: an unknown or wrong setting, or a name that is defined differently already.
        """
        if isinstance(config, CircuitBreakerConfig):
            config = {option: getattr(config, option) for option in OPTIONS}
        if config:
            breaker = self._make(name, **config)
            return breaker if config.get("fallback_function") else self._breakers[name]  # a fallback is each one's own
        known = self._breakers.get(name)
        return known or self._breakers.setdefault(name, self._make(name))

    def get(self, name: str) -> CircuitBreaker | None:
        """The breaker ``name``, or None if this process does not know it."""
        return self._breakers.get(name)

    def remove(self, name: str) -> None:
        """Forget the object; the breaker's state stays in the store."""
        self._breakers.pop(name, None)

    def reset_all(self) -> None:
        """Reset every breaker that this process knows, one after the other, as its :meth:`~CircuitBreaker.reset` does.

        Raises:
            BackendError: the store is away; the breakers after that one are not reset.
        """
        for breaker in self:
            breaker.reset()

    def get_all_status(self) -> dict[str, dict[str, Any]]:
        """The status of every breaker that this process knows, by name. One round trip each."""
        return {breaker.name: breaker.get_status() for breaker in self}

    def get_fleet_status(self) -> dict[str, dict[str, Any]]:
        """The status of every breaker that the configured store knows, also of other processes', by name.

        Settings that this process does not know are None. One round trip, one more for every 500 breakers, and one
        for each mode in force.

        Raises:
            BackendError: the store is away.
        """
        backend = configured.get_store().backend
        names = sorted({name for name, _ in backend.keys(BREAKER)})
        default = CircuitBreakerConfig().for_policy()
        calls = [Call(BREAKER, (name, ""), (PEEK, *(0,) * 8), default) for name in names]
        verdicts = [v for i in range(0, len(calls), _AT_A_TIME) for v in backend.apply(calls[i : i + _AT_A_TIME])]
        found = {}
        for name, verdict in zip(names, verdicts, strict=True):
            config = self._settings_of(name)
            found[name] = status(name, verdict, config, {}) | history.word_on(backend, name, verdict[MODE])
        return found

    def _settings_of(self, name: str) -> CircuitBreakerConfig | None:
        """Those of a breaker that the store knows; None if this process does not know them.

        Its name may be a template's, letter for letter, since a client chose what stands in for the arguments.
        """
        known = self._breakers.get(name)
        if known is None:
            return None
        return known._configured() if is_template(name) else known.config

    def __iter__(self) -> Iterator[CircuitBreaker]:
        for breaker in list(self._breakers.values()):
            if is_template(breaker.name):
                yield from list(breaker._family.values())
            else:
                yield breaker
