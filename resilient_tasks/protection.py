"""The protection of one task: its breaker and its limits."""

from __future__ import annotations

import hashlib
import inspect
import logging
import math
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

from ratelimit_core._util.clock import microseconds
from ratelimit_core._util.templates import Template, is_template
from ratelimit_core.circuit_breaker import CircuitBreaker
from ratelimit_core.circuit_breaker.breaker import cache_of
from ratelimit_core.errors import CircuitBreakerError, ConfigurationError
from ratelimit_core.guard import Admission, Guard
from ratelimit_core.limiter import Decision, Limiter
from ratelimit_core.limiter.batch import hit_check
from ratelimit_core.limiter.concurrency import acquire_lease, release_lease, renew_lease
from ratelimit_core.protocol.internal_keys import waiting_call

from .options import Options
from .resume_pace import ResumePace
from .settings import ENABLED

logger = logging.getLogger("resilient_tasks")
_LONGEST_RUN = 300.0
"""So long a run without a hard time limit holds its place; its worker renews that."""
_TOO_LATE = 10
"""So many more that come back too late than in time, and none takes a slot."""
_SPACING_MARGIN = 0.02
"""What is given up of a rate that tasks wait for, so that those that come late don't hold up all others for ever."""


class Subject(NamedTuple):
    """The breaker of one call, and the name, key and cost of the call at its limits."""

    breaker: CircuitBreaker | None
    name: str
    key: str
    cost: int


class Protection:
    """The breaker and the limits of one task. Wrong options raise when the decorator runs.

    Args:
        name: the task's name, or the queue's where all of a queue is protected.
        signature: of the function, without ``self``.
        options: as in :class:`Options`.
        breaker_options: as in :class:`~ratelimit_core.CircuitBreakerConfig`; None for no breaker.
        time_limit: the hard one. After so many seconds a run is dead, and its place is free again.

    Raises:
        ConfigurationError: wrong options.
    """

    def __init__(
        self,
        name: str,
        signature: inspect.Signature,
        options: Options,
        breaker_options: Mapping[str, Any] | None,
        time_limit: float | None = None,
    ) -> None:
        if breaker_options and breaker_options.get("fallback_function") is not None:
            raise ConfigurationError("a task's fallback is on_open, as in on_open=function; not fallback_function")
        self.options = options
        self.breaker: CircuitBreaker | None = None
        self._name = options.breaker or name
        self._signature = signature
        if breaker_options is not None:
            self.breaker = CircuitBreaker(self._name, **breaker_options)
        self._of_arguments = self.breaker is not None and is_template(self._name)
        if self._of_arguments:
            Template(self._name, signature, "breaker")  # raises for wrong arguments
        self._rate_key = (
            Template(options.rate_key, signature, "rate_key") if isinstance(options.rate_key, str) else None
        )
        self.limiter, self.guard = self._limited(time_limit)
        self.resume = ResumePace(self._name, options)
        self._late = 0
        self._subject: Subject | None = None
        if not (self._of_arguments or options.rate_key or callable(options.cost)):
            self._subject = Subject(self.breaker, self._name, self._name, options.cost)

    def run_for(self, time_limit: float | None) -> None:
        """Set how long leases last: as long as a run may. Its time limit is known when the task is bound to its app."""
        if self.breaker is not None and time_limit:
            self.breaker.extend_probe_timeout(time_limit)
        self.limiter, self.guard = self._limited(time_limit)

    def _limited(self, time_limit: float | None) -> tuple[Limiter | None, Guard]:
        """Return the limiter, if there are limits, and the guard that asks it and the breaker."""
        options = self.options
        if options.rate is None and options.concurrency is None:
            return None, Guard(self.breaker, None)
        limiter = Limiter(
            options.rate,
            key=self._name,
            algorithm=options.algorithm,
            burst=options.burst,
            concurrency=options.concurrency,
            timeout=time_limit or _LONGEST_RUN,
            on_store_failure="deny",  # a task can wait
            spacing_margin=_SPACING_MARGIN,
        )
        if not callable(options.cost):
            hit_check(limiter, self._name, options.cost, "")  # raises for a cost beyond a limit
        return limiter, Guard(self.breaker, limiter)

    def came_back(self, late: float) -> None:
        """Record by how many seconds a deferred task was late when it came back to this process."""
        limits = self.limiter.limits if self.limiter is not None else ()
        if late > min((limit.grace for limit in limits if limit.reservable), default=math.inf):
            self._late = min(self._late + 1, 2 * _TOO_LATE)
        else:
            self._late = max(self._late - 1, 0)

    @property
    def takes_slots(self) -> bool:
        """Whether waiting tasks mostly come back in time for their reservations. A burst alone makes some late."""
        return self._late < _TOO_LATE

    def subject(self, args: Any, kwargs: Any) -> Subject:
        """Return the breaker, the key and the cost of a call with these arguments."""
        if self._subject is not None:
            return self._subject
        breaker, name, options = self.breaker, self._name, self.options
        if self._of_arguments and breaker is not None:
            bound = self._signature.bind(*args, **kwargs)
            bound.apply_defaults()
            breaker = breaker.bind(**bound.arguments)
            name = breaker.name
        key = name
        if callable(options.rate_key):
            key = f"{name}:{options.rate_key(*args, **kwargs)}"
        elif self._rate_key is not None:
            key = f"{name}:{self._rate_key.render(args, kwargs)}"
        cost = options.cost(*args, **kwargs) if callable(options.cost) else options.cost
        return Subject(breaker, name, key, cost)

    def acquire(
        self, subject: Subject, *, lease_id: str, slot: Decision | None = None, probe: bool = False
    ) -> Admission:
        """Acquire the admission of one run. See :meth:`Guard.acquire`."""
        if not ENABLED:
            return _UNGUARDED.acquire()
        if not self.resume.limiter.store.shared:
            _warn_that_memory_is_not_shared()
        guard = self.guard if subject.breaker is self.breaker else Guard(subject.breaker, self.limiter)
        return guard.acquire(key=subject.key, cost=subject.cost, lease_id=lease_id, reservation=slot, probe=probe)

    def renew(self, subject: Subject, lease_id: str) -> None:
        """Renew the lease of a run. One round trip if there is a concurrency limit, else none."""
        if self.options.concurrency is not None and self.limiter is not None:
            renew_lease(self.limiter, lease_id, key=subject.key)

    def refusal_to_publish(self, args: Any, kwargs: Any) -> CircuitBreakerError | None:
        """Return the error of a caller that publishes a call with these arguments, or None if that is allowed."""
        if self.options.on_publish_while_open == "allow" or self.breaker is None or not ENABLED:
            return None
        breaker = self.subject(args, kwargs).breaker
        assert breaker is not None
        _, wait = breaker.peek()
        return cache_of(breaker).reject(microseconds(wait)) if wait > 0 else None

    def waits_alone(self, task: str, task_id: str, args: Any, kwargs: Any, seconds: float) -> bool:
        """Return whether no other call of ``task`` with these arguments waits, and let this one wait for ``seconds``.

        One round trip.
        """
        return bool(acquire_lease(self._waiting(task, args, kwargs, seconds), task_id))

    def waits_no_more(self, task: str, task_id: str, args: Any, kwargs: Any) -> None:
        """End what :meth:`waits_alone` began. One round trip."""
        release_lease(self._waiting(task, args, kwargs, 1.0), task_id)

    def _waiting(self, task: str, args: Any, kwargs: Any, seconds: float) -> Limiter:
        call = repr((list(args or ()), sorted((kwargs or {}).items())))
        digest = hashlib.sha256(call.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        return Limiter(None, key=waiting_call(task, digest), concurrency=1, timeout=seconds)


@cache
def _warn_that_memory_is_not_shared() -> None:
    logger.warning(
        "resilience state is kept in memory, which worker processes do not share: set app.conf.resilience_backend "
        "to a redis:// URL"
    )


_UNGUARDED = Guard(None, None)
