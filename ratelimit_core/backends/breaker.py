"""The breaker around a store. Its state is in this process, because the store itself may be unavailable."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .._util.clock import Clock, wall
from .._util.fork import renewed_after_fork
from .._util.ids import new_id
from ..config.breaker import CircuitBreakerConfig
from ..config.sources import setting
from ..policies import BREAKER
from ..policies.circuit_breaker import ASK, CLOSED, PEEK, REPORT
from ..protocol.breaker import BreakerEvent, BreakerVerdict, error_of, policy_config, status
from ..protocol.call import Call
from .records import Records

_KEY = ("", "")


class StoreBreaker:
    """A breaker that rejects calls to a failing store. It runs the breaker policy in the memory of this process.

    While the store answers, a call only reads :attr:`healthy` and increments a counter.

    Args:
        name: the name of the breaker in errors.
        config: settings as in :class:`CircuitBreakerConfig`, or None for the setting ``circuit_breaker``. Only
            consecutive failures open the breaker. Rates are ignored, because most successes are not recorded.
        clock: a function that returns the time in µs; for tests.
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
        self.healthy = True
        """Whether the breaker is closed and no call has failed since the last success. The policy is then not asked."""
        self.stats = {"successes": 0, "failures": 0, "rejections": 0}
        _instances.add(self)
        if config is not None:
            self.config  # noqa: B018 - raises for a wrong option now, not at the first failure

    @property
    def config(self) -> CircuitBreakerConfig:
        """The breaker's settings. Unless they were given, the setting ``circuit_breaker`` is read at the first use."""
        if self._config is None:
            config = setting("circuit_breaker") or {} if self._given is None else self._given
            if not isinstance(config, CircuitBreakerConfig):
                config = CircuitBreakerConfig(self._name).with_options(config)
            self._config = replace(config, failure_rate=None, slow_call_rate=None, slow_call_duration=None)
        return self._config

    def enter(self) -> str:
        """Ask the breaker for one call. Return the call's lease id; "" while the breaker is healthy.

        After the call, pass the lease id to :meth:`succeeded`, :meth:`failed` or :meth:`release`.

        Raises:
            CircuitBreakerError: the breaker rejects the call.
        """
        if self.healthy:
            return ""
        lease_id = new_id()
        verdict = self._apply(ASK, lease_id=lease_id)
        if not verdict.allowed:
            self.stats["rejections"] += 1
            raise error_of(self._name, verdict, verdict.wait)
        return lease_id

    def succeeded(self, lease_id: str | None) -> None:
        """Record that the store answered. If the call did not :meth:`enter` (``lease_id=None``), close the breaker."""
        self.stats["successes"] += 1
        if lease_id:
            self._apply(REPORT, successes=1, lease_id=lease_id)
        elif lease_id is None and not self.healthy:
            self.reset()

    def failed(self, lease_id: str | None) -> None:
        """Record that the store did not answer, or could not carry out the request."""
        self.stats["failures"] += 1
        self._apply(REPORT, failures=1, lease_id=lease_id or "")

    def release(self, lease_id: str | None) -> None:
        """Record that the call ended without a success or a failure of the store."""
        if lease_id:
            self._apply(REPORT, lease_id=lease_id)

    def reset(self) -> None:
        """Close the breaker, and set its failure count to zero."""
        with self._lock:
            self._records.clear()
            self._generation = 0
            self.healthy = True

    def status(self) -> dict[str, Any]:
        """Return the breaker's status in the form of :meth:`CircuitBreaker.get_status`. Costs no round trip."""
        return status(self._name, self._apply(PEEK), self.config, self.stats)

    def _apply(self, op: int, *, successes: int = 0, failures: int = 0, lease_id: str = "") -> BreakerVerdict:
        config = policy_config(self.config)
        with self._lock:  # so that a thread does not overwrite `healthy` with an older verdict
            event = BreakerEvent(op, self._generation, successes, failures=failures)
            verdict = BreakerVerdict._make(self._records.apply([Call(BREAKER, _KEY, event, config, lease_id)])[0])
            if op != PEEK:
                self._generation = verdict.generation
                self.healthy = verdict.state == CLOSED and not verdict.failure_count
        return verdict

    def _after_fork(self) -> None:
        self._lock = threading.Lock()


_instances = renewed_after_fork(StoreBreaker._after_fork)
