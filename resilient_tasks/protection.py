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
"""The seconds for which a run without a hard time limit holds its leases. The worker renews the leases."""
_TOO_LATE = 10
"""Tasks make no reservations if at least this many more of them have come back late than in time."""
_SPACING_MARGIN = 0.02
"""The part of a rate that waiting tasks leave unused, so that a late task does not delay all later tasks."""


class Subject(NamedTuple):
    """The breaker of one call, the breaker's name, and the key and cost by which limits count the call."""

    breaker: CircuitBreaker | None
    name: str
    key: str
    cost: int


class Protection:
    """The breaker and the limits of one task.

    Args:
        name: the task's name, or the queue's name if a rule protects the whole queue.
        signature: the function's signature, without ``self``.
        options: the options of the task.
        breaker_options: settings, as in :class:`~ratelimit_core.CircuitBreakerConfig`; None: no breaker.
        time_limit: the hard time limit of a run, in seconds. After this time the run's leases end.

    Raises:
        ConfigurationError: an option is wrong.
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
            raise ConfigurationError("a task takes no fallback_function; write on_open=function instead")
        self.options = options
        self.breaker: CircuitBreaker | None = None
        self._name = options.breaker or name
        self._signature = signature
        if breaker_options is not None:
            self.breaker = CircuitBreaker(self._name, **breaker_options)
        self._of_arguments = self.breaker is not None and is_template(self._name)
        if self._of_arguments:
            Template(self._name, signature, "breaker")  # raises if the function has no such arguments
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
        """Let leases last for ``time_limit`` seconds. This limit is not known before the task is bound to its app."""
        if self.breaker is not None and time_limit:
            self.breaker.extend_probe_timeout(time_limit)
        self.limiter, self.guard = self._limited(time_limit)

    def _limited(self, time_limit: float | None) -> tuple[Limiter | None, Guard]:
        """Return the limiter (None without limits), and the guard for the breaker and this limiter."""
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
            hit_check(limiter, self._name, options.cost, "")  # raises if the cost is larger than a limit
        return limiter, Guard(self.breaker, limiter)

    def came_back(self, late: float) -> None:
        """Record that a deferred task came back to this process ``late`` seconds after its time."""
        limits = self.limiter.limits if self.limiter is not None else ()
        if late > min((limit.grace for limit in limits if limit.reservable), default=math.inf):
            self._late = min(self._late + 1, 2 * _TOO_LATE)
        else:
            self._late = max(self._late - 1, 0)

    @property
    def takes_slots(self) -> bool:
        """Whether tasks may make reservations: only while waiting tasks mostly come back in time to redeem them."""
        return self._late < _TOO_LATE

    def subject(self, args: Any, kwargs: Any) -> Subject:
        """Return the breaker, its name, the key and the cost of a call with these arguments."""
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
        """Renew the lease of a run. Costs one round trip if there is a concurrency limit, otherwise none."""
        if self.options.concurrency is not None and self.limiter is not None:
            renew_lease(self.limiter, lease_id, key=subject.key)

    def refusal_to_publish(self, args: Any, kwargs: Any) -> CircuitBreakerError | None:
        """Return the error for publishing a call with these arguments, or None if publishing is allowed."""
        if self.options.on_publish_while_open == "allow" or self.breaker is None or not ENABLED:
            return None
        breaker = self.subject(args, kwargs).breaker
        assert breaker is not None
        _, wait = breaker.peek()
        return cache_of(breaker).reject(microseconds(wait)) if wait > 0 else None

    def waits_alone(self, task: str, task_id: str, args: Any, kwargs: Any, seconds: float) -> bool:
        """Return whether no other call of ``task`` with these arguments waits.

        If so, no other such call may wait for the next ``seconds``. Costs one round trip.
        """
        return bool(acquire_lease(self._waiting(task, args, kwargs, seconds), task_id))

    def waits_no_more(self, task: str, task_id: str, args: Any, kwargs: Any) -> None:
        """Let another call with these arguments wait again. Costs one round trip."""
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
