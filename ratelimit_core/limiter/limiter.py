"""Rate limits and concurrency limits that hold in all processes that share a backend."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from types import TracebackType
from typing import get_args

from .._util.aio import acquired, finished
from .._util.clock import LONGEST, SECOND, Clock, microseconds, monotonic
from .._util.fork import renewed_after_fork
from .._util.ids import new_ticket
from .._util.redact import without_secrets
from .._util.suggest import not_one_of
from ..backends.base import Backend
from ..config.schema import OnStoreFailure
from ..errors import BackendError, ConfigurationError, RateLimitExceeded
from ..policies import CONCURRENCY, FIXED_WINDOW, SLIDING_WINDOW, WAIT
from ..policies.concurrency import RENEW
from ..policies.token_bucket import HIT, PEEK, REDEEM, REFUND, RESERVE
from ..protocol.call import Call
from ..protocol.names import MAX_KEY
from ..rates import Rate, parse_rates
from ..store import configured
from ..store.fallback import Store
from .batch import Question, decide
from .decision import Decision
from .limit import Algorithm, Limit
from .quota import Blocks

__all__ = ["Decision", "Limiter"]

_MAX_DENIALS = 1024


class Limiter:
    """Rates, and a limit on how many run at a time, for everybody who uses the same key.

    It is asked in whichever form suits::

        limiter = Limiter("10/s;1000/h", key="supplier")
        if limiter.hit():
            ...  # one decision, one round trip; a denied hit costs nothing
        with limiter:
            ...  # raises RateLimitExceeded
        slot = limiter.reserve(max_wait=30)  # ours in slot.retry_after seconds: then redeem it

    Several limits are one decision: either all count the hit, or none does.

    Args:
        rate: one or several, as ``"10/s;1000/h"``; None with ``concurrency`` alone.
        key: what is limited. Limiters of one key, rate and algorithm share one count.
        algorithm: ``sliding_window`` (the default: exact, never more than the limit in any period, memory
            O(limit)), ``sliding_window_counter`` (O(1), never more either, but only 80 % of it to a caller
            that is always at the limit), ``fixed_window`` (O(1), up to twice the limit across a boundary),
            ``token_bucket`` (O(1), up to ``burst + limit``), ``leaky_bucket`` (a token bucket of 1: evenly
            spaced). A reserved slot of a bucket may be used a quarter of a second late, or one spacing if
            that is longer, which adds as many as fit into that.
        burst: the size of a token bucket; the limit by default.
        concurrency: how many may run at a time. A run takes one place, whatever its cost.
        timeout: a place is free again after so many seconds, if whoever held it died.
        backend: another backend than the configured one.
        on_store_failure: while the store is away: ``"local"``, ``"allow"`` (allow all) or ``"deny"`` (deny all).
        spacing_margin: with ``sliding_window``, how much further apart reserved slots lie than they have to; 0.03 is
            3 %. The rate holds without it. With it, one late caller does not make all later ones late.
        local_quota: take so many at once from the shared budget, and spend them in this process without asking: one
            round trip for ``local_quota`` hits. What is taken counts from then on, so in any period at most what the
            algorithm allows and one block for each process and key may pass. A block ends with its window;
            :meth:`return_unused` ends it sooner. Where there is no room for a whole block, each hit asks.
        clock: what ages are measured with; for tests.

    Raises:
        ConfigurationError: nonsense in any of these, here and not at the first call.
    """

    def __init__(
        self,
        rate: str | Rate | Iterable[str | Rate] | None = None,
        *,
        key: str,
        algorithm: Algorithm = "sliding_window",
        burst: int | None = None,
        concurrency: int | None = None,
        timeout: float = 60.0,
        backend: Backend | None = None,
        on_store_failure: OnStoreFailure = "local",
        spacing_margin: float = 0.0,
        local_quota: int | None = None,
        clock: Clock = monotonic,
    ) -> None:
        for option, value, known in (
            ("algorithm", algorithm, Algorithm),
            ("on_store_failure", on_store_failure, OnStoreFailure),
        ):
            if value not in get_args(known):
                raise not_one_of(option, value, get_args(known))
        if burst is not None and algorithm != "token_bucket":
            raise ConfigurationError(f"burst={burst!r} goes with algorithm='token_bucket' only")
        if not (key and isinstance(key, str)):
            raise ConfigurationError(f"key={key!r} should be a string that says what is limited")
        if backend is not None and not isinstance(backend, Backend):
            raise ConfigurationError(
                f"backend={without_secrets(backend)} should be a Backend, as in RedisBackend('redis://...')"
            )
        if type(spacing_margin) not in (int, float) or not 0 <= spacing_margin <= 1:
            raise ConfigurationError(
                f"spacing_margin={spacing_margin!r} should be a part of the spacing of slots, from 0 to 1"
            )
        if rate is None and concurrency is None:
            raise ConfigurationError("a limiter needs a rate, as in Limiter('10/s', key=...), or a concurrency")
        self.key = key
        self.on_store_failure = on_store_failure
        rates = () if rate is None else parse_rates(rate)
        self.limits = [Limit.of_rate(each, algorithm, burst, spacing_margin) for each in rates]
        if concurrency is not None:
            self.limits.append(Limit.of_concurrency(concurrency, timeout))
        self.clock = clock
        self._blocks = None if local_quota is None else self._leasing(local_quota)
        self._backend = backend
        self._store: Store | None = None
        self._quick: Callable[[str], Decision] | None = None
        self._denials: dict[tuple[str, int], tuple[int, Decision]] = {}
        self._entered: deque[Decision] = deque()
        _limiters.add(self)

    def _after_fork(self) -> None:
        self._entered.clear()  # they are the parent's to end

    def forget(self) -> None:
        """Know nothing, and look for the store anew."""
        self._store = self._quick = None
        self._denials.clear()
        if self._blocks is not None:
            self._blocks.forget()

    @property
    def store(self) -> Store:
        """The store that is asked: the one that is configured at the first question."""
        if self._store is None:
            self._store = configured.get_store(self._backend)
            if len(self.limits) == 1 and self._blocks is None:
                self._quick = self.limits[0].quick(self._store.backend)
        return self._store

    def hit(self, cost: int = 1, *, key: str | None = None) -> Decision:
        """Take ``cost``, or be denied and take nothing. One round trip; none if the denial is already known.

        Raises:
            ConfigurationError: the cost is more than the limit: waiting would never help.
        """
        name = self.key if key is None else self._name(key)
        quick = self._quick
        if quick is not None and cost == 1 and type(cost) is int:
            return quick(name)
        if self._blocks is not None and cost == 1:
            leased = self._blocks.spend(name) or self._lease(name, self._blocks)
            if leased is not None:
                return leased
        decision = self.known_denial(name, cost)
        if decision is None:
            decision = self.noted(name, self._ask(self.calls(name, cost, new_ticket())))
        return decision if decision.allowed else self.denied(decision)

    def _lease(self, name: str, blocks: Blocks) -> Decision | None:
        """The first hit of a new block; None if there is no room for one, and for a name too long to be remembered."""
        if len(name) > MAX_KEY or self.known_denial(name, blocks.size) is not None:
            return None
        with blocks.asking(name) as alone:
            if not alone:
                return None
            if (leased := blocks.spend(name)) is not None:  # whoever asked just now has left it
                return leased
            asked_at = self.clock()
            decision = self.noted(name, self._ask(self.calls(name, blocks.size, new_ticket())))
            return blocks.took(name, decision, asked_at) if decision else None

    def return_unused(self) -> None:
        """Give back what is left of all leased blocks, as at the end of a process. A round trip for each key."""
        for name, decision in self._blocks.give_up() if self._blocks is not None else ():
            self.store.tell(self._refunds(name, self.limits, decision), decision.local)

    def peek(self, cost: int = 1, *, key: str | None = None) -> Decision:
        """What :meth:`hit` would answer now; takes nothing. One round trip."""
        return self._ask(self._looking(cost, key))

    async def ahit(self, cost: int = 1, *, key: str | None = None) -> Decision:
        """:meth:`hit` without blocking the event loop. Cancelled meanwhile, it gives back the place to run."""
        name = self._name(key)
        if self._quick is not None and cost == 1 and type(cost) is int:
            return self._quick(name)
        if self._blocks is not None and cost == 1:
            leased = self._blocks.spend(name) or await self._alease(name, self._blocks)
            if leased is not None:
                return leased
        decision = self.known_denial(name, cost)
        if decision is None:
            asking = self._aask(self.calls(name, cost, new_ticket()))
            if any(limit.policy is CONCURRENCY for limit in self.limits):
                decision = self.noted(name, await acquired(asking, partial(self.arelease, key=key)))
            else:
                decision = self.noted(name, await asking)
        return decision if decision.allowed else self.denied(decision)

    async def _alease(self, name: str, blocks: Blocks) -> Decision | None:
        if len(name) > MAX_KEY or self.known_denial(name, blocks.size) is not None:
            return None
        with blocks.asking(name) as alone:
            if not alone:
                return None
            if (leased := blocks.spend(name)) is not None:  # whoever asked just now has left it
                return leased
            asked_at = self.clock()
            decision = self.noted(name, await self._aask(self.calls(name, blocks.size, new_ticket())))
            return blocks.took(name, decision, asked_at) if decision else None

    async def apeek(self, cost: int = 1, *, key: str | None = None) -> Decision:
        """:meth:`peek` without blocking the event loop."""
        return await self._aask(self._looking(cost, key))

    def reserve(
        self,
        max_wait: float,
        cost: int = 1,
        *,
        key: str | None = None,
        floor: float = 0.0,
        ticket: str = "",
        on: int | None = None,
    ) -> Decision:
        """Take ``cost`` for a slot in at most ``max_wait`` seconds, and no sooner than ``floor``.

        Allowed, it is yours in ``retry_after`` seconds: wait, and then :meth:`redeem` it. Several sliding windows are
        all reserved, and the longest wait counts; what would have ended by then is given back. Of several buckets,
        where a slot that is missed is lost, the one that makes wait longest gives it. What holds none of it is asked
        by :meth:`redeem`. Nothing is reserved while all places to run are taken: nobody knows when one will be free.

        ``on`` says which limit denied, by the ``which`` of that denial: then it is not asked once more whether there
        is room now. ``ticket`` is what the slot is to be called. Who has a slot of that name already keeps it in the
        sliding windows that hold it still, unless it is sooner than ``floor``; a bucket gives another.

        One round trip if there is room now, else two; one less with ``on``, one more if something is given back.

        Raises:
            ConfigurationError: no limit here can reserve, or the cost is more than the limit.
        """
        name = self._name(key)
        ticket = ticket or new_ticket()
        which = next((i for i, limit in enumerate(self.limits) if limit.reservable), None) if on is None else on
        if which is None or not self.limits[which].reservable:
            raise ConfigurationError("reserve() needs algorithm='sliding_window', 'token_bucket' or 'leaky_bucket'")
        floor, max_wait = _span("floor", floor), _span("max_wait", max_wait)
        if on is None and floor == 0:
            decision = self._ask(self.calls(name, cost, ticket))
            which = decision.denied_by
            if decision.allowed or decision.local or not self.limits[which].reservable:
                return decision
        places = self._of_slot(which)
        reserved, waits = self._reserved(places, name, cost, ticket, floor, max_wait)
        if reserved.allowed:
            # Nobody queues for a quick window then who waits for a slow one, so whoever has waited for that finds room.
            ended = [i for i, wait in zip(places, waits, strict=False) if wait + self.limits[i].period_us < max(waits)]
            self.store.tell(self._refunds(name, [self.limits[i] for i in ended], reserved), False)
        return reserved

    def _of_slot(self, which: int) -> list[int]:
        """The limits in which a slot is held that the limit ``which`` gave, by their places."""
        if not 0 <= which < len(self.limits) or not self.limits[which].reservable:
            return []
        if self.limits[which].policy is not SLIDING_WINDOW:
            return [which]
        return [i for i, limit in enumerate(self.limits) if limit.policy is SLIDING_WINDOW]

    def _reserved(
        self, places: Sequence[int], name: str, cost: int, ticket: str, floor: int, max_wait: int
    ) -> tuple[Decision, list[int]]:
        """A slot in each of these limits, or in none; and how far away each is, in µs. One round trip."""
        limits = [self.limits[i] for i in places]
        question = Question(
            limits, [limit.call(name, RESERVE, cost, ticket, floor, max_wait) for limit in limits], cost, ticket
        )
        waits: list[int] = []
        try:
            verdicts = self.store.apply(question.calls)
        except BackendError as error:
            decision = self.without_store(question, error)
        else:
            decision = decide(question, verdicts, local=False)
            waits = [verdict[WAIT] for verdict in verdicts]
        return decision._replace(denied_by=places[decision.denied_by], binding=places[decision.binding]), waits

    def redeem(self, slot: Decision, *, key: str | None = None) -> Decision:
        """Use a reserved slot, now that its time has come: once, and not much later; else this is a new hit.

        One round trip; none if the slot was there at once, and of all limits.
        """
        if slot.consumed:
            return slot
        name = self._name(key)
        return self._ask(self.calls(name, slot.cost, slot.ticket, slot=slot))

    def refund(self, decision: Decision, *, key: str | None = None) -> None:
        """Give back what ``decision`` took, as far as the algorithm can. Once. One round trip."""
        self.store.tell(self._all_refunds(decision, key), decision.local)

    async def arefund(self, decision: Decision, *, key: str | None = None) -> None:
        """:meth:`refund` without blocking the event loop."""
        await self.store.atell(self._all_refunds(decision, key), decision.local)

    def release(self, decision: Decision, *, key: str | None = None) -> None:
        """Give back the place to run, if there is a limit on those. One round trip then, else none."""
        self.store.tell(self.releases(decision, key=key), decision.local)

    async def arelease(self, decision: Decision, *, key: str | None = None) -> None:
        """:meth:`release` without blocking the event loop."""
        await self.store.atell(self.releases(decision, key=key), decision.local)

    def hold(self, ticket: str, *, key: str | None = None) -> Decision:
        """Take the place to run that is called ``ticket``, or hold it longer. One round trip.

        Raises:
            ConfigurationError: there are limits here besides the one on how many may run.
        """
        if [limit.policy for limit in self.limits] != [CONCURRENCY]:
            raise ConfigurationError("hold() needs a concurrency alone, as in Limiter(key=..., concurrency=1)")
        return self._ask(self.calls(self._name(key), 1, ticket))

    def let_go(self, ticket: str, *, key: str | None = None) -> None:
        """Give back the place to run that is called ``ticket``, whoever took it. One round trip."""
        self.store.tell(self.places(ticket, key=key), False)

    def renew(self, ticket: str, *, key: str | None = None) -> None:
        """Have the place to run that is called ``ticket`` held longer, if it is held still. One round trip."""
        name = self._name(key)
        calls = [limit.call(name, RENEW, 1, ticket) for limit in self.limits if limit.policy is CONCURRENCY]
        self.store.tell(calls, False)

    def places(self, ticket: str, *, key: str | None = None) -> list[Call]:
        """The calls that :meth:`let_go` makes, for who has others to send along."""
        name = self._name(key)
        return [limit.call(name, REFUND, 1, ticket) for limit in self.limits if limit.policy is CONCURRENCY]

    def releases(self, decision: Decision, *, key: str | None = None) -> list[Call]:
        """The calls that :meth:`release` makes, for who has others to send along."""
        limits = [limit for limit in self.limits if limit.policy is CONCURRENCY]
        return self._refunds(self._name(key), limits, decision) if decision.allowed else []

    def reset(self, *, key: str | None = None) -> None:
        """Forget all that was taken. One round trip for each limit.

        Raises:
            BackendError: the store is away; after some of these, a CircuitBreakerError of its own breaker.
        """
        name = self._name(key)
        try:
            for limit in self.limits:
                self.store.local.delete(limit.policy, [limit.key(name)])
                self.store.backend.delete(limit.policy, [limit.key(name)])
        finally:
            self._denials.clear()

    def __enter__(self) -> Decision:
        decision = self.hit()
        if not decision:
            raise self.refusal(decision)
        self._entered.append(decision)
        return decision

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # The oldest, whosever it is: blocks may end in any order, thread and context, and what is left then
        # never ends before its holder's own would.
        if self._entered:  # or else this process was forked within the block, which is its parent's to end
            self.release(self._entered.popleft())

    async def __aenter__(self) -> Decision:
        decision = await self.ahit()
        if not decision:
            raise self.refusal(decision)
        self._entered.append(decision)
        return decision

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._entered and self.releases(decision := self._entered.popleft()):
            await finished(self.arelease(decision))

    # For those who ask together with others.

    def calls(self, name: str, cost: int, ticket: str, *, slot: Decision | None = None) -> Question:
        """What takes ``cost`` of every limit; of those in which ``slot`` is held, by that slot's ticket."""
        calls = [limit.call(name, HIT, cost, ticket) for limit in self.limits]
        # At more than it was taken for it would let through what nobody has counted.
        redeemed = self._of_slot(slot.denied_by) if slot is not None and cost <= slot.cost else []
        for i in redeemed:
            assert slot is not None
            calls[i] = self.limits[i].call(name, REDEEM, cost, slot.ticket)
        return Question(self.limits, calls, cost, ticket, True, bool(redeemed))

    def noted(self, name: str, decision: Decision) -> Decision:
        """Remember the denial of a shared store until asking again makes sense, at most 1 s; not by a long name."""
        if not decision.allowed and not decision.local and self.store.shared and len(name) <= MAX_KEY:
            if len(self._denials) >= _MAX_DENIALS:
                self._denials.clear()
            until = self.clock() + min(SECOND, microseconds(decision.retry_after))
            self._denials[name, decision.cost] = until, decision
        return decision

    def denied(self, decision: Decision) -> Decision:
        """The same, counted as a hit that was denied."""
        self.limits[decision.denied_by].denied()
        return decision

    def known_denial(self, name: str, cost: int) -> Decision | None:
        """The last denial, while it holds."""
        if not self._denials:
            return None
        until, decision = self._denials.get((name, cost), (0, None))
        left = until - self.clock()
        if decision is None or left <= 0:
            return None
        passed = min(SECOND, microseconds(decision.retry_after)) - left
        return decision._replace(
            retry_after=max(0.0, decision.retry_after - passed / SECOND),
            reset_after=max(0.0, decision.reset_after - passed / SECOND),
        )

    def without_store(self, question: Question, error: BackendError) -> Decision:
        """The answer while the store is away, by ``on_store_failure``."""
        if self.on_store_failure == "local":
            return decide(question, self.store.local.apply(question.calls), local=True)
        allowed = self.on_store_failure == "allow"
        wait = 0.0 if allowed else error.retry_after or 0.0
        return Decision(
            allowed,
            question.limits[0].allowance,
            0,
            wait,
            wait,
            ticket=question.ticket,
            cost=question.cost,
            reservation_kept=question.redeems and not allowed,
            consumed=question.takes and allowed,
            local=True,
        )

    def refusal(self, decision: Decision, name: str | None = None) -> RateLimitExceeded:
        """The error that says what ``decision`` says."""
        return RateLimitExceeded(
            self.key if name is None else name,
            decision.retry_after,
            name=self.key,
            limit=decision.limit,
            remaining=decision.remaining,
            reset_after=decision.reset_after,
            denied_by=decision.denied_by,
            reservation_kept=decision.reservation_kept,
        )

    def _ask(self, question: Question) -> Decision:
        try:
            verdicts = self.store.apply(question.calls)
        except BackendError as error:
            return self.without_store(question, error)
        return decide(question, verdicts, local=False)

    def _name(self, key: str | None) -> str:
        if key is None:
            return self.key
        if not isinstance(key, str):
            raise ConfigurationError(f"key={key!r} should be a string, as in key=str(user.pk)")
        return key

    async def _aask(self, question: Question) -> Decision:
        try:
            verdicts = await self.store.aapply(question.calls)
        except BackendError as error:
            return self.without_store(question, error)
        return decide(question, verdicts, local=False)

    def _looking(self, cost: int, key: str | None) -> Question:
        name = self._name(key)
        return Question(self.limits, [limit.call(name, PEEK, cost, "") for limit in self.limits], cost)

    def _leasing(self, lease: int) -> Blocks:
        most = min(limit.allowance for limit in self.limits)
        if any(limit.policy is CONCURRENCY for limit in self.limits):
            raise ConfigurationError(
                f"local_quota={lease!r}: places to run can't be taken ahead; leave out concurrency"
            )
        if type(lease) is not int or not 2 <= lease <= most:
            raise ConfigurationError(f"local_quota={lease!r} should be a whole number from 2 to the limit, {most}")
        fixed = any(limit.policy is FIXED_WINDOW for limit in self.limits)
        return Blocks(lease, min(limit.period_us for limit in self.limits), fixed, self.clock)

    def _all_refunds(self, decision: Decision, key: str | None) -> list[Call]:
        if not decision.allowed or (self._blocks is not None and self._blocks.put_back(self._name(key), decision)):
            return []
        limits = self.limits if decision.consumed else [self.limits[i] for i in self._of_slot(decision.denied_by)]
        return self._refunds(self._name(key), limits, decision)

    def _refunds(self, name: str, limits: list[Limit], decision: Decision) -> list[Call]:
        if limits:
            self._denials.pop((name, decision.cost), None)
        return [limit.call(name, REFUND, decision.cost, decision.ticket) for limit in limits]


def _span(option: str, seconds: float) -> int:
    if not seconds >= 0:
        raise ConfigurationError(f"{option}={seconds!r} should be seconds, 0 or more")
    return microseconds(min(seconds, LONGEST / SECOND))


_limiters = renewed_after_fork(Limiter._after_fork)
