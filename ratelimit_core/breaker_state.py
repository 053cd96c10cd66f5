"""What a process knows of a breaker, and the permits it gives on that.

One :class:`BreakerState` for each breaker and process. It holds the store's last word for as long as that may
be reused, and the successes that nobody was told of yet. Nothing here locks: what permits are given on is one
tuple, replaced as a whole, so a lost update costs a question to the store, never a wrong permit.
"""

from __future__ import annotations

import os
import random
import weakref
from collections.abc import Callable
from threading import get_ident
from typing import Any

from .backends.base import Call
from .backoff import retry_after_of
from .breaker_config import CircuitBreakerConfig
from .clock import SECOND, Clock, microseconds
from .errors import BackendError, CircuitBreakerError, RateLimited
from .events import BreakerChanged, emit
from .permit import Permit, probes
from .policies import ALLOWED, ANSWER, BREAKER, OTHER_ANSWER, RECORD, WAIT, Verdict
from .policies.breaker import ASK, CLOSED, HALF_OPEN, OPEN, PEEK, REPORT
from .store import Store

NAMES = {CLOSED: "closed", OPEN: "open", HALF_OPEN: "half_open"}

_STATE, _GENERATION, _FAILURES, _LAST_FAILURE, _CHANGED_AT, _RETRY_AT, _DELAY = range(RECORD, RECORD + 7)


_Known = tuple[int, int, int, bool]
"""Until when permits are given on it, until when it is sure, the generation, and whether that is local."""
_NOTHING: _Known = (0, 0, 0, False)


class BreakerState:
    """See the module. ``store`` is a function, called at the first question."""

    def __init__(self, config: CircuitBreakerConfig, store: Callable[[], Store], clock: Clock) -> None:
        self.config = config
        self.clock = clock
        self._find_store = store
        self._store: Store | None = None
        self._policy_config = config.for_policy()
        self._ttl = microseconds(config.verdict_ttl)
        self._key = (config.name, "")
        self.successes = 0
        self.failures = 0
        self.refusals = 0
        self.forget()
        _states.add(self)

    def forget(self) -> None:
        """Know nothing."""
        self._known: _Known = _NOTHING
        self.good = 0  # successes of the known generation that the store has not been told of
        self.good_at = 0
        self._carried: dict[int, tuple[int, int]] = {}  # by thread: the generation and successes it is telling now
        self.refuse_until = 0  # refused, and sure of it, until then
        self._wait_until = 0  # when it may be probed, as last heard
        self._known_failures = 0
        self._last: Verdict = ()

    @property
    def generation(self) -> int:
        """The generation last heard of."""
        return self._known[2]

    @property
    def local(self) -> bool:
        """Whether that is of this process alone, because the store is away."""
        return self._known[3]

    def _after_fork(self) -> None:
        """What is pending is the parent's to report. A known refusal holds in the child too."""
        self._known = _NOTHING
        self._carried = {}
        self.good = self.successes = self.failures = self.refusals = 0

    @property
    def store(self) -> Store:
        """The store that is asked."""
        if self._store is None:
            self._store = self._find_store()
        return self._store

    # Asking

    def permit_if_fresh(self, ticket: str) -> Permit | None:
        """A permit without asking; None if the store has to be asked.

        Raises:
            CircuitBreakerError: refused, and it is not yet time to ask again.
        """
        now = self.clock()
        fresh_until, _, generation, local = self._known
        if now < fresh_until:
            return Permit(self, generation, ticket=ticket, probe=False, local=local)
        for probe in probes.get():
            if probe._state is self and probe.generation == generation and not probe.settled:
                return Permit(self, generation, ticket="", probe=False, local=local)
        if now < self.refuse_until:
            raise self.refusal(max(0, self._wait_until - now))
        return None

    def ask_call(self, ticket: str) -> Call:
        """The question for a permit; it carries the successes that the store has not been told of."""
        now = self.clock()
        _, sure_until, generation, local = self._known
        if now < sure_until:  # while this thread asks, the others need not; but what is too old gives no permits
            self._known = now + self._ttl, sure_until, generation, local
        self._put_back()
        good, self.good = self.good, 0
        if good:
            self._carried[get_ident()] = generation, good
        age = now - self.good_at
        return Call(BREAKER, self._key, (ASK, generation, good, age, 0, 0, 0), self._policy_config, ticket)

    def _put_back(self) -> None:
        """What this thread carried to the store was not written there."""
        generation, good = self._carried.pop(get_ident(), (0, 0))
        if generation == self.generation:
            self.good += good

    def answered(self, call: Call, verdict: Verdict, *, local: bool = False) -> Permit:
        """Take in the answer to :meth:`ask_call`, and that all that was asked with it was allowed too.

        Raises:
            CircuitBreakerError: the breaker refused.
        """
        self._carried.pop(get_ident(), None)
        self._learn(verdict, local=local, written=bool(verdict[ALLOWED]))
        if not verdict[ALLOWED]:
            raise self.refusal(verdict[WAIT])
        probe = verdict[_STATE] == HALF_OPEN
        return Permit(self, verdict[_GENERATION], ticket=call.ticket, probe=probe, local=local)

    def observed(self, verdict: Verdict) -> None:
        """Take in an answer that was not acted on, since something asked with it was denied."""
        self._put_back()
        if verdict[ANSWER] == verdict[_STATE]:
            self._learn(verdict, local=False, written=False)

    def ask(self, ticket: str) -> Permit:
        """A permit, from what is known or from the store: at most one round trip.

        Raises:
            CircuitBreakerError: refused.
        """
        permit = self.permit_if_fresh(ticket)
        if permit is not None:
            return permit
        call = self.ask_call(ticket)
        try:
            verdict = self.store.apply([call])[0]
        except BackendError as error:
            return self.ask_without_store(ticket, error)
        return self.answered(call, verdict)

    def ask_without_store(self, ticket: str, error: BackendError) -> Permit:
        """The answer while the store is away, by ``when_down``; no round trip."""
        now = self.clock()
        self._known = 0, 0, self.generation, self.local
        if self.config.when_down == "open":
            return Permit(self, 0, ticket="", probe=False, local=True)
        if self.config.when_down == "closed":
            raise CircuitBreakerError(self.config.name, "open", error.retry_after or 0.0)
        if now < self._wait_until:  # known to be open: that much of the shared state is honoured
            raise self.refusal(self._wait_until - now)
        call = self.ask_call(ticket)
        return self.answered(call, self.store.local.apply([call])[0], local=True)

    def refusal(self, wait: int) -> CircuitBreakerError:
        """The error that says to wait for ``wait`` µs, with what is known."""
        self.refusals += 1
        seconds = wait / SECOND
        record = self._last
        if not record:
            return CircuitBreakerError(self.config.name, "open", seconds)
        return CircuitBreakerError(
            self.config.name,
            NAMES[record[_STATE]],
            seconds,
            failure_count=record[_FAILURES],
            last_failure_time=record[_LAST_FAILURE] / SECOND or None,
            next_attempt_time=_next_attempt(record),
            recovery_time=_length_of_wait(record),
        )

    # Settling

    def verdict_on(self, error: BaseException | None) -> bool | None:
        """True for an answer, False for a failure, None for what says nothing."""
        config = self.config
        if error is None or isinstance(error, config.success_exceptions):
            return True
        if isinstance(error, CircuitBreakerError | RateLimited):
            return None  # somebody was not called: that says nothing about who was
        if isinstance(error, config.expected_exception) and not isinstance(error, config.ignored_exceptions):
            return False
        return None

    def settle(self, permit: Permit, took: int, good: int, bad: int, error: BaseException | None) -> float:
        """Report an outcome, now or with the next question. Returns the seconds until the next probe, or 0."""
        slow_from = self.config.slow_call_duration
        slow = int(good + bad > 0 and slow_from is not None and took >= slow_from * SECOND)
        self.successes += good
        self.failures += bad
        if not permit.probe and not bad and not slow:
            if good and self._is_current(permit):
                self.good_at = self.clock()
                self.good += 1
                if self._known_failures:  # tell at once: untold, it would not come between others' failures
                    self._known_failures = 0  # one thread is enough
                    self._report(permit, 0, 0, 0, 0)
                    return 0.0
            self.store.tell(permit.riders, local=permit.local)
            return 0.0
        retry_after = 0
        if bad and error is not None and self.config.obey_retry_after:
            retry_after = microseconds(retry_after_of(error) or 0)
        return self._report(permit, good, bad, slow, retry_after) / SECOND

    def witness(self) -> Permit:
        """A permit for testimony about a call that nobody asked for; told at once, unless known to be closed."""
        fresh_until, _, generation, local = self._known
        return Permit(self, generation, ticket="", probe=not fresh_until, local=local)

    def _is_current(self, permit: Permit) -> bool:
        _, _, generation, local = self._known
        return permit.generation == generation and permit.local == local

    def _report(self, permit: Permit, good: int, bad: int, slow: int, retry_after: int) -> int:
        pending = age = 0
        if self._is_current(permit):
            pending, self.good = self.good, 0
            age = self.clock() - self.good_at if pending and not good else 0
        event = (REPORT, permit.generation, pending + good, age, bad, slow, retry_after)
        call = Call(BREAKER, self._key, event, self._policy_config, permit.ticket)
        local = permit.local
        if local:
            # Once the store is back it wins: what was decided without it is not told.
            if self.store.up or self.config.when_down != "local":
                self.store.tell(permit.riders, local=True)
                return 0
            verdict = self.store.local.apply([call, *permit.riders])[0]
        else:
            try:
                verdict = self.store.apply([call, *permit.riders])[0]
            except BackendError:  # what rode along is lost: a lease ends by itself
                if self.config.when_down != "local":
                    return 0
                if (wait := self._wait_until - self.clock()) > 0:
                    return wait  # known to be open: what began before that changes nothing
                local = True
                verdict = self._report_without_store(call)
        self._learn(verdict, local=local, written=True)
        return verdict[WAIT]

    def _report_without_store(self, call: Call) -> Verdict:
        """A failure that the store can't be told counts here, in the generation of this process."""
        memory = self.store.local
        peek = memory.apply([call._replace(event=(PEEK, 0, 0, 0, 0, 0, 0), ticket="")])[0]
        return memory.apply([call._replace(event=(REPORT, peek[_GENERATION], *call.event[2:]), ticket="")])[0]

    def _learn(self, verdict: Verdict, *, local: bool, written: bool) -> None:
        now = self.clock()
        state, generation = verdict[_STATE], verdict[_GENERATION]
        ended = self._known[2:] != (generation, local)
        self._known_failures = verdict[_FAILURES]
        if state == CLOSED:
            fresh = int(self._ttl * random.uniform(0.8, 1.0))  # so that a fleet doesn't ask in step
            self._known = now + fresh, now + self._ttl, generation, local
            self.refuse_until = self._wait_until = 0
        else:
            self._known = 0, 0, generation, local
            self._last = verdict
            self._wait_until = now + verdict[WAIT]
            self.refuse_until = min(self._wait_until, now + SECOND)  # so that a manual reset is seen
        if ended:
            self.good = 0
        if written and verdict[ANSWER] != state:
            emit(
                BreakerChanged(
                    self.config.name,
                    NAMES[verdict[ANSWER]],
                    NAMES[state],
                    failure_count=verdict[_FAILURES],
                    retry_after=verdict[WAIT] / SECOND,
                    local=local,
                )
            )

    def peek(self) -> Verdict:
        """The record as it is, from the store or, while that is away, from this process. One round trip."""
        call = Call(BREAKER, self._key, (PEEK, 0, 0, 0, 0, 0, 0), self._policy_config)
        try:
            return self.store.apply([call])[0]
        except BackendError:
            if self._last and self.clock() < self._wait_until:
                return self._last  # known to be open
            return self.store.local.apply([call])[0]

    def status(self) -> dict[str, Any]:
        """See :meth:`CircuitBreaker.get_status`."""
        verdict = self.peek()
        state = verdict[_STATE]
        return {
            "name": self.config.name,
            "state": NAMES[state],
            "failure_count": verdict[_FAILURES],
            "failure_threshold": self.config.failure_threshold,
            "last_failure_time": verdict[_LAST_FAILURE] / SECOND or None,
            "changed_at": verdict[_CHANGED_AT] / SECOND or None,
            "next_attempt_time": _next_attempt(verdict),
            "backoff_time": _length_of_wait(verdict),
            "half_open_calls": verdict[OTHER_ANSWER],
            "stats": {"successes": self.successes, "failures": self.failures, "refusals": self.refusals},
        }

    def reset(self) -> None:
        """Forget the breaker, here and in the store. One round trip.

        Raises:
            BackendError: the store is away; what this process knew is forgotten all the same.
        """
        self.forget()
        self.store.local.delete(BREAKER, [self._key])
        self.store.backend.delete(BREAKER, [self._key])


def _next_attempt(record: Verdict) -> float | None:
    return record[_RETRY_AT] / SECOND if record[_STATE] == OPEN else None


def _length_of_wait(record: Verdict) -> float:
    if record[_STATE] == OPEN:  # as long as the failure asked for, perhaps
        return (record[_RETRY_AT] - record[_CHANGED_AT]) / SECOND
    return record[_DELAY] / SECOND


_states: weakref.WeakSet[BreakerState] = weakref.WeakSet()


def _after_fork() -> None:
    probes.set(())
    for state in list(_states):
        state._after_fork()


os.register_at_fork(after_in_child=_after_fork)
