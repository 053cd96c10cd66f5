"""The breakers that a process has defined or used, and the breakers that the store lists."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .._util.templates import is_template
from ..config.breaker import OPTIONS, CircuitBreakerConfig
from ..policies import BREAKER
from ..policies.circuit_breaker import PEEK
from ..protocol.breaker import BreakerEvent, BreakerVerdict, policy_config, status
from ..protocol.call import Call
from ..store import configured
from . import history
from .breaker import CircuitBreaker, definition_of, refer_to
from .definitions import Definition, definitions

_BATCH_SIZE = 500
"""The maximum number of breakers that one round trip reads."""


class CircuitBreakerRegistry:
    """The breakers that this process has defined or used, by name."""

    def __init__(self) -> None:
        self._breakers: dict[str, Definition[CircuitBreaker]] = definitions

    def get_or_create(self, name: str, config: CircuitBreakerConfig | dict[str, Any] | None = None) -> CircuitBreaker:
        """Return the breaker ``name``. If this process does not know the breaker yet, define it with ``config``.

        Raises:
            ConfigurationError: the name or an option is wrong, or the breaker is already defined differently.
        """
        if isinstance(config, CircuitBreakerConfig):
            config = {option: getattr(config, option) for option in OPTIONS}
        breaker = CircuitBreaker(name, **(config or {}))
        if config and config.get("fallback_function"):
            return breaker  # the definition's handle may have another fallback
        return definition_of(breaker).lookup().handle

    def get(self, name: str) -> CircuitBreaker | None:
        """Return the breaker ``name``, or None if this process does not know such a breaker."""
        definition = self._breakers.get(name)
        return None if definition is None else definition.handle

    def refer(self, name: str) -> CircuitBreaker:
        """Return the breaker ``name`` for an operator's command, without defining the breaker.

        A module that is imported later may still define the breaker.
        """
        return self.get(name) or refer_to(name)

    def remove(self, name: str) -> None:
        """Forget the definition of the breaker ``name``. The breaker's state stays in the store."""
        self._breakers.pop(name, None)

    def reset_all(self) -> None:
        """Reset every breaker that this process knows, one after another, with :meth:`CircuitBreaker.reset`.

        Raises:
            BackendError: the store is unavailable. The remaining breakers are not reset.
        """
        for breaker in self:
            breaker.reset()

    def get_all_status(self) -> dict[str, dict[str, Any]]:
        """Return the status of every breaker that this process knows, by name.

        Costs as many round trips for each breaker as :meth:`CircuitBreaker.get_status`.
        """
        return {breaker.name: breaker.get_status() for breaker in self}

    def get_fleet_status(self) -> dict[str, dict[str, Any]]:
        """Return the status of every breaker that the configured store lists, by name.

        The store also lists the breakers of other processes. Settings that this process does not know are None. Costs
        one round trip for the list, one for every 500 breakers, and one for each override in force.

        Raises:
            BackendError: the store is unavailable.
            CircuitBreakerError: the store's own breaker is open, so the store was not asked.
        """
        backend = configured.get_store().backend
        names = sorted({name for name, _ in backend.keys(BREAKER)})
        event, config = BreakerEvent(PEEK), policy_config(CircuitBreakerConfig())
        calls = [Call(BREAKER, (name, ""), event, config) for name in names]
        batches = [calls[i : i + _BATCH_SIZE] for i in range(0, len(calls), _BATCH_SIZE)]
        verdicts = [BreakerVerdict._make(verdict) for batch in batches for verdict in backend.apply(batch)]
        found = {}
        for name, verdict in zip(names, verdicts, strict=True):
            known = status(name, verdict, self._config_of(name), {})
            found[name] = known | history.current_override(backend, name, verdict.mode)
        return found

    def _config_of(self, name: str) -> CircuitBreakerConfig | None:
        """Return the settings of the breaker ``name``, or None if this process does not know the breaker.

        A client may choose the arguments in an instance's name, so the name of an instance may look like a template.
        """
        definition = self._breakers.get(name)
        if definition is None:
            return None
        return definition.config() if is_template(name) else definition.handle.config

    def __iter__(self) -> Iterator[CircuitBreaker]:
        for definition in list(self._breakers.values()):
            if is_template(definition.name):
                yield from list(definition.instances.values())
            else:
                yield definition.handle


circuit_breaker_registry = CircuitBreakerRegistry()
