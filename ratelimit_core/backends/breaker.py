"""The breaker around a store. It lives in this process: a breaker over Redis can't live in Redis."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .._util.clock import Clock, wall
from .._util.fork import renewed_after_fork
from .._util.ids import new_ticket
from ..config.breaker import CircuitBreakerConfig
from ..config.sources import setting
from ..policies import ALLOWED, BREAKER, WAIT, Verdict
from ..policies.breaker import ASK, CLOSED, PEEK, REPORT
from ..protocol.breaker import FAILURES, GENERATION, STATE, refusal, status
from ..protocol.call import Call
from .records import Records

_KEY = ("", "")


class StoreBreaker:
    """Refuses what would fail: the breaker policy, on a record of this process.

    While the store answers, it costs one look at :attr:`calm`, and a success is counted.

    Args:
        name: what the breaker is called in errors.
        config: settings as in :class:`CircuitBreakerConfig`; None for the setting ``circuit_breaker``. Failures
            in a row count; rates don't, since nobody keeps the times of what answered.
        clock: for tests.
    """

    def __init__(
        self, name: str, config: CircuitBreakerConfig | Mapping[str, Any] | None, clock: Clock | None = None
    ) -> None:
        self._name = name
        self._given = config
        self._config: CircuitBreakerConfig | None = None
        self._records = Records(1, clock or wall)
        self._lock = threading.Lock()
        self._generation = 0
        self.calm = True
        """Nothing has failed since the last success: there is nothing to ask."""
        self.stats = {"successes": 0, "failures": 0, "rejections": 0}
        _instances.add(self)
        if config is not None:
            self.config  # noqa: B018 - a wrong option is refused where it is written

    @property
    def config(self) -> CircuitBreakerConfig:
        """The settings in force; those that nobody gave are read when they are first needed."""
        if self._config is None:
            config = setting("circuit_breaker") or {} if self._given is None else self._given
            if not isinstance(config, CircuitBreakerConfig):
                config = CircuitBreakerConfig(self._name).with_options(config)
            self._config = replace(config, failure_rate=None, slow_call_rate=None, slow_call_duration=None)
        return self._config

    def enter(self) -> str:
        """Ask whether the store may be called; what is returned goes to one of the three below.

        Raises:
            CircuitBreakerError: not now.
        """
        if self.calm:
            return ""
        ticket = new_ticket()
        verdict = self._apply(ASK, ticket=ticket)
        if not verdict[ALLOWED]:
            self.stats["rejections"] += 1
            raise refusal(self._name, verdict, verdict[WAIT])
        return ticket

    def succeeded(self, ticket: str) -> None:
        """The store answered."""
        self.stats["successes"] += 1
        if ticket:
            self._apply(REPORT, good=1, ticket=ticket)

    def failed(self, ticket: str) -> None:
        """The store did not answer."""
        self.stats["failures"] += 1
        self._apply(REPORT, bad=1, ticket=ticket)

    def interrupted(self, ticket: str) -> None:
        """Nothing can be said."""
        if ticket:
            self._apply(REPORT, ticket=ticket)

    def reset(self) -> None:
        """Close it, and forget what failed."""
        with self._lock:
            self._records.clear()
            self._generation = 0
            self.calm = True

    def status(self) -> dict[str, Any]:
        """The same dictionary as :meth:`CircuitBreaker.get_status`. No round trip."""
        return status(self._name, self._apply(PEEK), self.config, self.stats)

    def _apply(self, op: int, *, good: int = 0, bad: int = 0, ticket: str = "") -> Verdict:
        config = self.config.for_policy()
        with self._lock:  # else a thread might be calm about what another one has just reported
            event = (op, self._generation, good, 0, bad, 0, 0, 0, 0)
            verdict = self._records.apply([Call(BREAKER, _KEY, event, config, ticket)])[0]
            if op != PEEK:
                self._generation = verdict[GENERATION]
                self.calm = verdict[STATE] == CLOSED and not verdict[FAILURES]
        return verdict

    def _after_fork(self) -> None:
        self._lock = threading.Lock()


_instances = renewed_after_fork(StoreBreaker._after_fork)
