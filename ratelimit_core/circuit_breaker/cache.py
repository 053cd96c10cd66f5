"""What a process knows of a breaker, and the permits it gives on that.

One :class:`BreakerState` for each breaker and process. It holds the store's last word for as long as that may
be reused, and the successes that nobody was told of yet. Nothing here locks: what permits are given on is one
tuple, replaced as a whole, so a lost update costs a question to the store, never a wrong permit.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from .._util.clock import SECOND, Clock, microseconds, wall
from .._util.fork import renewed_after_fork
from ..config.breaker import CircuitBreakerConfig
from ..errors import BackendError, CircuitBreakerError, RateLimitExceeded
from ..events import ConfigMismatch, StateChanged
from ..policies import ALLOWED, ANSWER, BREAKER, TOKEN_BUCKET, WAIT, Verdict
from ..policies.breaker import (
    ASK,
    AUTOMATIC,
    CLOSED,
    DISABLED,
    FORCE,
    FORCED_CLOSED,
    FORCED_OPEN,
    HALF_OPEN,
    OPEN,
    PEEK,
    REPORT,
    SHADOW,
)
from ..protocol import breaker
from ..protocol.breaker import (
    CHANGED_AT,
    FAILURES,
    GENERATION,
    MODE,
    MODE_UNTIL,
    MODES,
    SETTINGS,
    STATE,
    STATES,
    in_shadow,
    is_probe,
    state_of,
)
from ..protocol.call import Call
from ..protocol.internal_keys import turns_of
from ..retry_after import parse_retry_after
from ..store.drive import Steps, run
from ..store.fallback import Store
from . import history
from .permit import Permit, probes

_Known = tuple[int, int, int, int, bool]
"""Until when permits are given on it without a thought, until when they are given, until when it is sure, the
generation, and whether that is local."""
_HEARD = "_resilience_heard"
"""Where an error says which breakers counted it, and when: a call within a call fails once."""
_NOTHING: _Known = (0, 0, 0, 0, False)


class BreakerState:
    """See the module. ``store`` is a function, called at the first question.

    ``defined``: this process says how the breaker is to be. One that only refers to it has nothing to compare with
    what others say.
    """

    def __init__(
        self, config: CircuitBreakerConfig, store: Callable[[], Store], clock: Clock, *, defined: bool = True
    ) -> None:
        self.config = config
        self.clock = clock
        self._find_store = store
        self._store: Store | None = None
        *settings, fingerprint = config.for_policy()
        self._policy_config = *settings, fingerprint if defined else 0
        self._ttl = microseconds(config.cache_ttl)
        self._key = (config.name, "")
        self.successes = 0
        self.failures = 0
        self.rejections = 0
        self.shadow_rejections = 0
        self.probes = 0
        self._answers_alike = config.slow_call_duration is None and config.is_failure is None
        self._compares = defined
        self.forget()
        _states.add(self)

    def forget(self) -> None:
        """Know nothing."""
        self.known: _Known = _NOTHING
        self.good = 0  # successes of the known generation that the store has not been told of
        self.good_at = 0
        self.refuse_until = 0  # refused, and sure of it, until then
        self._wait_until = 0  # when it may be probed, as last heard
        self._known_failures = 0
        self._last: Verdict = ()
        self._details: tuple[Verdict | None, dict[str, Any]] = (None, {})  # what refusals say, of which answer
        self._only_shadow = False  # permits are given on an opening that is in the shadow

    @property
    def generation(self) -> int:
        """The generation last heard of."""
        return self.known[3]

    @property
    def local(self) -> bool:
        """Whether that is of this process alone, because the store is away."""
        return self.known[4]

    def _after_fork(self) -> None:
        """What is pending is the parent's to report. A known refusal holds in the child too."""
        self.known = _NOTHING
        self.good = self.successes = self.failures = self.rejections = self.shadow_rejections = self.probes = 0

    @property
    def store(self) -> Store:
        """The store that is asked."""
        if self._store is None:
            self._store = self._find_store()
        return self._store

    # Asking

    def permit_if_fresh(self) -> Permit | None:
        """A permit without asking; None if the store has to be asked.

        Raises:
            CircuitBreakerError: refused, and it is not yet time to ask again.
        """
        now = self.clock()
        _, fresh_until, _, generation, local = self.known
        if now < fresh_until:
            if self._only_shadow:
                self.shadow_rejections += 1
            return Permit(self, generation, ticket="", probe=False, local=local)
        for probe in probes.get():
            if probe._state is self and probe.generation == generation and not probe.settled:
                return Permit(self, generation, ticket="", probe=False, local=local)
        if now < self.refuse_until:
            raise self.refused(max(0, self._wait_until - now))
        return None

    def permit_of(self, known: _Known, began: int) -> Permit:
        """The permit of a call that went ahead on what was ``known`` when it began."""
        permit = Permit(self, known[3], ticket="", probe=False, local=known[4])
        permit._began = began
        return permit

    def ask_call(self, ticket: str) -> Call:
        """The question for a permit; it carries the successes that the store has not been told of.

        Where they were not written there, :meth:`put_back` is due.
        """
        now = self.clock()
        _, _, sure_until, generation, local = self.known
        if now < sure_until:  # while this thread asks, the others need not; but what is too old gives no permits
            self.known = 0, now + self._ttl, sure_until, generation, local
        good, age = self._pending(), now - self.good_at
        dice = random.randrange(1000)
        return Call(BREAKER, self._key, (ASK, generation, good, age, 0, 0, 0, dice, 0), self._policy_config, ticket)

    def _pending(self) -> int:
        """The successes that are to be told. What was called within a probe is still that probe: none then."""
        good, self.good = self.good, 0
        return 0 if self._last and state_of(self._last) == HALF_OPEN else good

    def put_back(self, ask: Call) -> None:
        """What ``ask`` carried to the store was not written there."""
        _, generation, good, *_ = ask.event
        if generation == self.generation:
            self.good += good

    def answering(self, call: Call, verdict: Verdict, *, local: bool = False) -> Steps[Permit]:
        """Take in the answer to :meth:`ask_call`, and that all that was asked with it was allowed too.

        Raises:
            CircuitBreakerError: the breaker refused.
        """
        if not verdict[ALLOWED]:
            self.put_back(call)
        yield from self._learning(verdict, local=local, written=bool(verdict[ALLOWED]), asked=True)
        if self._compares and not local and verdict[SETTINGS] not in (0, self._policy_config[-1]):
            self._compares = False
            yield "announce", ConfigMismatch(self.config.name)
        if not verdict[ALLOWED]:
            raise self.refused(verdict[WAIT])
        probe = is_probe(verdict, self.config.shadow)
        if probe:
            self.probes += 1
        elif state_of(verdict) != CLOSED:
            self.shadow_rejections += 1
        return Permit(self, verdict[GENERATION], ticket=call.ticket, probe=probe, local=local)

    def observed(self, call: Call, verdict: Verdict) -> None:
        """Take in an answer that was not acted on, since something asked with it was denied."""
        self.put_back(call)
        if verdict[ANSWER] == verdict[STATE]:
            self._learn(verdict, local=False, asked=True)

    def asking(self, ticket: str) -> Steps[Permit]:
        """A permit, from what is known or from the store: at most one round trip.

        Raises:
            CircuitBreakerError: refused.
        """
        permit = self.permit_if_fresh()
        return (yield from self.asking_anew(ticket)) if permit is None else permit

    def asking_anew(self, ticket: str) -> Steps[Permit]:
        """:meth:`asking` the store, whatever is known."""
        call = self.ask_call(ticket)
        try:
            verdicts = yield "apply", [call]
        except BackendError as error:
            self.put_back(call)
            return (yield from self.asking_without_store(ticket, error))
        except BaseException:  # ended while it waited
            self.put_back(call)
            raise
        return (yield from self.answering(call, verdicts[0]))

    def asking_without_store(self, ticket: str, error: BackendError) -> Steps[Permit]:
        """The answer while the store is away, by ``on_store_failure``; no round trip."""
        now = self.clock()
        self.known = 0, 0, 0, self.generation, self.local
        if self.config.on_store_failure == "allow":
            return Permit(self, 0, ticket="", probe=False, local=True)
        if self.config.on_store_failure == "deny":
            self.rejections += 1
            raise CircuitBreakerError(self.config.name, "open", error.retry_after or 0.0)
        if (wait := self._known_to_refuse(now)) > 0:  # that much of the shared state is honoured
            raise self.refused(wait)
        if self._known_to_allow():
            return Permit(self, 0, ticket="", probe=False, local=True)
        call = self.ask_call(ticket)
        return (yield from self.answering(call, self.store.local.apply([call])[0], local=True))

    def _known_to_refuse(self, now: int) -> int:
        """For how long it is known to be open, in µs. What was forced until further notice has no deadline."""
        last = self._last
        if last and last[MODE] == FORCED_OPEN and not last[MODE_UNTIL]:
            return max(self._wait_until - now, last[WAIT])
        return self._wait_until - now if last else 0

    def _known_to_allow(self) -> bool:
        """Whether a person said that nobody is to be refused: that holds while the store is away, too."""
        last = self._last
        if not last or last[MODE] not in (FORCED_CLOSED, DISABLED, SHADOW):
            return False
        return not last[MODE_UNTIL] or wall() < last[MODE_UNTIL]

    def refusal(self, wait: int) -> CircuitBreakerError:
        """The error that says to wait for ``wait`` µs, with what is known."""
        if self._details[0] is not self._last:
            self._details = self._last, breaker.details(self._last)
        return CircuitBreakerError(self.config.name, retry_after=wait / SECOND, **self._details[1])

    def refused(self, wait: int) -> CircuitBreakerError:
        """The same, for a call that is refused: it is counted."""
        self.rejections += 1
        return self.refusal(wait)

    # Settling

    def verdict_on(self, error: BaseException | None) -> bool | None:
        """True for an answer, False for a failure, None for what says nothing."""
        config = self.config
        if error is None or isinstance(error, config.success_exceptions):
            return True
        if isinstance(error, CircuitBreakerError | RateLimitExceeded):
            return None  # somebody was not called: that says nothing about who was
        if isinstance(error, config.expected_exception) and not isinstance(error, config.ignored_exceptions):
            return False
        return None

    def has_heard(self, error: BaseException, since: int) -> bool:
        """Whether this error was judged a failure of this breaker since then."""
        return bool(getattr(error, _HEARD, {}).get(self.config.name, -1) >= since)

    def refuses_for(self) -> float:
        """For how many seconds it refuses, as far as is known here."""
        return max(0, self._wait_until - self.clock()) / SECOND

    def count(self, permit: Permit) -> bool:
        """Count a success that need not be told now. False: it was not counted."""
        if self._known_failures or self.config.slow_call_duration is not None:
            return False
        self.successes += 1
        if self._is_current(permit):
            self.good_at = self.clock()
            self.good += 1
        return True

    def settling(self, permit: Permit, took: int, good: int, bad: int, error: BaseException | None) -> Steps[float]:
        """Report an outcome, now or with the next question. Comes to the seconds until the next probe, or 0."""
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
                    yield from self._reporting(permit, 0, 0, 0, 0)
                    return 0.0
            if permit.extra_calls:
                yield "tell", permit.extra_calls, permit.local
            return 0.0
        span = 0
        if bad and error is not None:
            if self.config.respect_retry_after:
                span = microseconds(parse_retry_after(error) or 0)
            with suppress(AttributeError):  # one with slots
                error.__dict__.setdefault(_HEARD, {})[self.config.name] = self.clock()
        wait = yield from self._reporting(permit, good, bad, slow, span)
        return wait / SECOND

    def report_external(
        self, error: BaseException | None, ago: float, ticket: str, extra_calls: Sequence[Call]
    ) -> None:
        """See :meth:`CircuitBreaker.report_external`."""
        bad = int(error is not None)
        self.failures += bad
        event = (REPORT, 0, 0, microseconds(ago), bad, 0, 0, 0, 0)
        call = Call(BREAKER, self._key, event, self._policy_config, ticket)
        run(self._telling(call, extra_calls), self.store)

    def _telling(self, call: Call, extra_calls: Sequence[Call]) -> Steps[None]:
        try:
            verdicts = yield "apply", [call, *extra_calls]
        except BackendError:  # a lease ends by itself
            return
        yield from self._learning(verdicts[0], local=False, written=True, asked=False)

    def witness(self) -> Permit:
        """A permit for testimony about a call that nobody asked for; told at once, unless known to be closed."""
        _, fresh_until, _, generation, local = self.known
        return Permit(self, generation, ticket="", probe=not fresh_until, local=local)

    def _is_current(self, permit: Permit) -> bool:
        _, _, _, generation, local = self.known
        return permit.generation == generation and permit.local == local

    def _reporting(self, permit: Permit, good: int, bad: int, slow: int, span: int) -> Steps[int]:
        pending = age = 0
        if self._is_current(permit):
            pending = self._pending()
            age = self.clock() - self.good_at if pending and not good else 0
        event = (REPORT, permit.generation, pending + good, age, bad, slow, span, 0, 0)
        call = Call(BREAKER, self._key, event, self._policy_config, permit.ticket)
        local = permit.local
        if local:
            # Once the store is back it wins: what was decided without it is not told. It may be there, and too busy.
            if (self.store.up and not self.local) or self.config.on_store_failure != "local" or self._known_to_allow():
                yield "tell", permit.extra_calls, True
                return 0
            if not self.local and (wait := self._known_to_refuse(self.clock())) > 0:
                yield (
                    "tell",
                    permit.extra_calls,
                    True,
                )  # of an earlier outage: what the store has said since is honoured
                return wait
            verdict = self.store.local.apply([call, *permit.extra_calls])[0]
        else:
            try:
                verdicts = yield "apply", [call, *permit.extra_calls]
            except BackendError:  # what rode along is lost: a lease ends by itself
                if self.config.on_store_failure != "local" or self._known_to_allow():
                    return 0
                if (wait := self._known_to_refuse(self.clock())) > 0:
                    return wait  # what began before that changes nothing
                local = True
                verdict = self._report_without_store(call)
            else:
                verdict = verdicts[0]
        yield from self._learning(verdict, local=local, written=True, asked=False)
        return verdict[WAIT]

    def _report_without_store(self, call: Call) -> Verdict:
        """A failure that the store can't be told counts here, in the generation of this process."""
        memory = self.store.local
        peek = memory.apply([self.peek_call()])[0]
        return memory.apply([call._replace(event=(REPORT, peek[GENERATION], *call.event[2:]), ticket="")])[0]

    def _learning(self, verdict: Verdict, *, local: bool, written: bool, asked: bool) -> Steps[None]:
        """Take in what the store said, and report what it brought about: the call that did so writes the history."""
        self._learn(verdict, local=local, asked=asked)
        if written and verdict[ANSWER] != verdict[STATE]:
            change = StateChanged(
                self.config.name,
                STATES[verdict[ANSWER]],
                STATES[verdict[STATE]],
                failure_count=verdict[FAILURES],
                retry_after=breaker.length_of_wait(verdict) if verdict[STATE] == OPEN else 0.0,
                local=local,
                shadow=in_shadow(verdict, self.config.shadow),
            )
            yield "announce", change
            yield "note", *history.note(history.transition(change, verdict[CHANGED_AT] / SECOND)), local

    def _learn(self, verdict: Verdict, *, local: bool, asked: bool) -> None:
        if not verdict[GENERATION]:  # nobody has asked yet, or it was reset; and no permit may rest on that
            self.forget()
            return
        now = self.clock()
        state, generation = state_of(verdict), verdict[GENERATION]
        ended = self.known[3:] != (generation, local)
        self._known_failures = verdict[FAILURES] if verdict[STATE] == CLOSED and verdict[MODE] != DISABLED else 0
        self._only_shadow = state != CLOSED and in_shadow(verdict, self.config.shadow)
        if state == CLOSED or self._only_shadow:
            # While it ramps up, every call has to ask. Whether it does is said to those who ask, not to a report.
            ttl = 0 if verdict[WAIT] or (self.config.slow_start and not asked) else self._ttl
            fresh = int(ttl * random.uniform(0.8, 1.0))  # so that a fleet doesn't ask in step
            plain = state == CLOSED and not self._known_failures and self._answers_alike
            self.known = now + fresh if plain else 0, now + fresh, now + ttl, generation, local
            self.refuse_until = self._wait_until = 0
        else:
            self.known = 0, 0, 0, generation, local
            self._wait_until = now + verdict[WAIT]
            self.refuse_until = min(self._wait_until, now + SECOND)  # so that a manual reset is seen
        self._last = verdict
        if ended:
            self.good = 0

    # Looking, and a person's word

    def peek_call(self) -> Call:
        """The question that changes nothing."""
        return Call(BREAKER, self._key, (PEEK, *(0,) * 8), self._policy_config)

    def peek(self) -> Verdict:
        """The record as it is, from the store or, while that is away, from this process. One round trip."""
        call = self.peek_call()
        try:
            return self.store.apply([call])[0]
        except BackendError:
            if self._known_to_refuse(self.clock()) > 0:
                return self._last
            return self.store.local.apply([call])[0]

    def look(self, anew: bool) -> tuple[str, float]:
        """See :meth:`CircuitBreaker.peek`."""
        now = self.clock()
        if now < self.known[1] and not anew:
            return "closed", 0.0
        if now >= self.refuse_until or anew:
            try:
                verdict = self.store.apply([self.peek_call()])[0]
            except BackendError:  # what is known holds to its deadline
                left = max(0, self._known_to_refuse(now))
                return ("open" if left else "closed"), left / SECOND
            self._learn(verdict, local=False, asked=False)
        if not self._last or self._only_shadow or state_of(self._last) == CLOSED:
            return "closed", 0.0
        return STATES[state_of(self._last)], self.refuses_for()

    def status(self) -> dict[str, Any]:
        """See :meth:`CircuitBreaker.get_status`."""
        verdict = self.peek()
        status = breaker.status(self.config.name, verdict, self.config, self.stats())
        mode = verdict[MODE] if self.store.up else AUTOMATIC  # nobody there knows who said so
        return status | history.word_on(self.store.backend, self.config.name, mode)

    def stats(self) -> dict[str, int]:
        """What this process saw."""
        return {
            "successes": self.successes,
            "failures": self.failures,
            "rejections": self.rejections,
            "shadow_rejections": self.shadow_rejections,
        }

    def force(self, mode: int, author: str, reason: str, ttl: float | None) -> None:
        """Put ``mode`` in force for ``ttl`` seconds, for the whole fleet. See :meth:`CircuitBreaker.force_open`."""
        span = 0 if ttl is None else microseconds(ttl)
        entry = history.manual(self.config.name, MODES[mode], author, reason, ttl)
        call = Call(BREAKER, self._key, (FORCE, 0, 0, 0, 0, 0, span, 0, mode), self._policy_config)
        self._learn(self.store.backend.attempt([call])[0], local=False, asked=False)
        history.write(self.store.backend, entry)

    def reset(self, author: str, reason: str) -> None:
        """Forget the breaker's state, here and in the store. See :meth:`CircuitBreaker.reset`."""
        entry = history.manual(self.config.name, "reset", author, reason, None)
        self.forget()
        self.store.local.delete(BREAKER, [self._key])
        self.store.backend.attempt([self.peek_call()])  # it is here again, whatever its own breaker thinks
        self.store.backend.delete(BREAKER, [self._key])
        for key in self.store.backend.keys(TOKEN_BUCKET):
            if key[0] == turns_of(self.config.name):  # of what was forced for a day, say
                self.store.backend.delete(TOKEN_BUCKET, [key])
        history.write(self.store.backend, entry)


os.register_at_fork(after_in_child=lambda: probes.set(()))
_states = renewed_after_fork(BreakerState._after_fork)


def states() -> list[BreakerState]:
    """The breakers that this process asks about."""
    while True:
        with suppress(RuntimeError):  # another thread has just made one
            return list(_states)
