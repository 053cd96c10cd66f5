"""Rate limits and concurrency limits that hold in all processes that share a backend."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from types import TracebackType
from weakref import WeakSet

from .._util.aio import acquired, finished
from .._util.clock import Clock, monotonic
from .._util.fork import renewed_after_fork
from .._util.ids import new_id
from ..backends.base import Backend
from ..config.schema import OnStoreFailure
from ..policies import CONCURRENCY
from ..rates import Rate
from ..store import configured
from ..store.drive import Steps, adrive, drive
from ..store.fallback import Store
from . import concurrency, reservations
from .batch import hit_check, key_of_call, limit_exceeded, peek_check, refund
from .decision import Decision
from .denials import KnownDenials
from .limit import Algorithm
from .options import check_options, make_limits
from .quota import LocalQuota


class Limiter:
    """Rate limits and a concurrency limit, shared by all callers that use the same key.

    ::

        limiter = Limiter("10/s;1000/h", key="supplier")
        if limiter.hit():
            ...  # one decision, one round trip; a denied hit is not counted
        with limiter:
            ...  # raises RateLimitExceeded
        reservation = limiter.reserve(max_wait=30)  # due in reservation.retry_after seconds: then redeem it

    Several limits are one decision: either all count the hit, or none does.

    Args:
        rate: one or several; None with ``concurrency`` alone.
        key: what is limited. Limiters of one key, rate and algorithm share one count.
        algorithm: ``sliding_window`` (the default: exact, never more than the limit in any period, memory
            O(limit)), ``sliding_window_counter`` (O(1), never more either, but only 80 % of it to a caller
            that is always at the limit), ``fixed_window`` (O(1), up to twice the limit across a boundary),
            ``token_bucket`` (O(1), up to ``burst + limit``), ``leaky_bucket`` (a token bucket of 1: evenly
            spaced). A reservation of a bucket may be redeemed a quarter of a second late, or one spacing if
            that is longer, which adds as many calls as fit into that.
        burst: the size of a token bucket; the limit by default.
        concurrency: how many calls may run at a time. A call takes one slot, whatever its cost.
        timeout: a slot is free again after so many seconds, if its holder died.
        backend: another backend than the configured one.
        on_store_failure: while the store is unavailable: ``"local"`` (this process decides alone), ``"allow"`` (allow
            all) or ``"deny"`` (deny all).
        spacing_margin: with ``sliding_window``, how much further apart reservations lie than the rate requires; 0.03 is
            3 %. The rate holds without it. With it, one late caller does not make all later ones late.
        local_quota: take so many at once from the shared limit, and spend them in this process without asking: one
            round trip for ``local_quota`` hits. What is taken counts from then on, so in any period at most what the
            algorithm allows and one block for each process and key may pass. A block ends with its window;
            :meth:`return_unused` ends it sooner. Where there is no room for a whole block, each hit asks.
        clock: measures ages; for tests.

    Raises:
        ConfigurationError: an option is wrong.
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
        check_options(key, backend, on_store_failure)
        self.key = key
        self.on_store_failure = on_store_failure
        self.limits = make_limits(rate, algorithm, burst, spacing_margin, concurrency, timeout)
        self.clock = clock
        self.known_denials = KnownDenials(clock)
        self._quota = None if local_quota is None else LocalQuota(local_quota, self.limits, clock)
        self._backend = backend
        self._store: Store | None = None
        self._fast_hit: Callable[[str], Decision] | None = None
        self._entered: deque[Decision] = deque()
        _limiters.add(self)

    @property
    def store(self) -> Store:
        """The store that is asked: the one that is configured when it is first needed."""
        if self._store is None:
            self._store = configured.get_store(self._backend)
            if len(self.limits) == 1 and self._quota is None:
                self._fast_hit = self.limits[0].fast_hit(self._store.backend)
        return self._store

    def hit(self, cost: int = 1, *, key: str | None = None) -> Decision:
        """Take ``cost``, or be denied and take nothing. One round trip; none if the denial is already known.

        Raises:
            ConfigurationError: the cost is above the limit, so waiting would never help.
        """
        name = self.key if key is None else key_of_call(self, key)
        fast_hit = self._fast_hit
        if fast_hit is not None and cost == 1 and type(cost) is int:
            return fast_hit(name)
        decision = self._decide_here(name, cost)
        return drive(self._hit(name, cost), self._store or self.store) if decision is None else decision

    async def ahit(self, cost: int = 1, *, key: str | None = None) -> Decision:
        """:meth:`hit` without blocking the event loop. Cancelled meanwhile, it releases its concurrency slot."""
        name = self.key if key is None else key_of_call(self, key)
        if self._fast_hit is not None and cost == 1 and type(cost) is int:
            return self._fast_hit(name)
        decision = self._decide_here(name, cost)
        return await self._acquire(self._hit(name, cost), key) if decision is None else decision

    def _decide_here(self, name: str, cost: int) -> Decision | None:
        """Decide from the local quota or by a known denial. Return None if the store has to be asked."""
        if self._quota is not None and cost == 1:
            unit = self._quota.spend(name)
            if unit is not None or self.known_denials.get(name, self._quota.size) is None:
                return unit
        if (denial := self.known_denials.get(name, cost)) is not None:
            self.limits[denial.denied_by].count_denial()
        return denial

    def _hit(self, name: str, cost: int) -> Steps[Decision]:
        if self._quota is not None and cost == 1:
            return self._quota.hit(self, name)
        return hit_check(self, name, cost, new_id()).ask(counts=True)

    async def _acquire(self, steps: Steps[Decision], key: str | None) -> Decision:
        """Take steps that may acquire a concurrency slot. Cancelled meanwhile, release it."""
        if any(limit.policy is CONCURRENCY for limit in self.limits):
            return await acquired(adrive(steps, self.store), partial(self.arelease, key=key))
        return await adrive(steps, self.store)

    def return_unused(self) -> None:
        """Give back what is left of the local quota, as at the end of a process. A round trip for each key."""
        if self._quota is not None:
            drive(self._quota.return_unused(self), self.store)

    def peek(self, cost: int = 1, *, key: str | None = None) -> Decision:
        """Return what :meth:`hit` would answer now; take nothing. One round trip."""
        return drive(peek_check(self, key_of_call(self, key), cost).ask(), self.store)

    async def apeek(self, cost: int = 1, *, key: str | None = None) -> Decision:
        """:meth:`peek` without blocking the event loop."""
        return await adrive(peek_check(self, key_of_call(self, key), cost).ask(), self.store)

    def reserve(
        self,
        max_wait: float,
        cost: int = 1,
        *,
        key: str | None = None,
        not_before: float = 0.0,
        lease_id: str = "",
        denied_by: int | None = None,
    ) -> Decision:
        """Reserve ``cost``, to be used in at most ``max_wait`` seconds, and no sooner than ``not_before``.

        If it is allowed, it is due in ``retry_after`` seconds: wait for that long, and then :meth:`redeem` it. Several
        sliding windows are all reserved, and the longest wait counts; a window that would have forgotten the call by
        then gives its part back. Of several buckets, where a reservation that is missed is lost, the bucket with the
        longest wait gives it. The limits that hold none of it are asked by :meth:`redeem`. Nothing is reserved while
        all concurrency slots are taken: it is not known when one will be free.

        One round trip if there is room now, else two; one less with ``denied_by``, one more if a part is given back.

        Args:
            max_wait, not_before: seconds from now.
            lease_id: names the reservation. The sliding windows that hold one of that name keep it, unless it is due
                sooner than ``not_before``; a bucket gives another.
            denied_by: the limit that denied a hit just now, as in its decision: then it is not asked once more whether
                there is room now.

        Raises:
            ConfigurationError: no limit here can reserve, or the cost is above the limit.
        """
        return drive(reservations.reserve(self, max_wait, cost, key, not_before, lease_id, denied_by), self.store)

    async def areserve(
        self,
        max_wait: float,
        cost: int = 1,
        *,
        key: str | None = None,
        not_before: float = 0.0,
        lease_id: str = "",
        denied_by: int | None = None,
    ) -> Decision:
        """:meth:`reserve` without blocking the event loop. Cancelled meanwhile, it gives the reservation back."""
        steps = reservations.reserve(self, max_wait, cost, key, not_before, lease_id, denied_by)
        return await acquired(adrive(steps, self.store), partial(self.arefund, key=key))

    def redeem(self, reservation: Decision, *, key: str | None = None) -> Decision:
        """Use a reservation that is due: once, and not much later; else this is a new hit. One round trip at most."""
        return drive(reservations.redeem(self, reservation, key=key), self.store)

    async def aredeem(self, reservation: Decision, *, key: str | None = None) -> Decision:
        """:meth:`redeem` without blocking the event loop. Cancelled meanwhile, it releases its concurrency slot."""
        return await self._acquire(reservations.redeem(self, reservation, key=key), key)

    def refund(self, decision: Decision, *, key: str | None = None) -> None:
        """Give back what ``decision`` took, as far as the algorithm can. Once. One round trip."""
        drive(self._refund(decision, key), self.store)

    async def arefund(self, decision: Decision, *, key: str | None = None) -> None:
        """:meth:`refund` without blocking the event loop."""
        await adrive(self._refund(decision, key), self.store)

    def _refund(self, decision: Decision, key: str | None) -> Steps[None]:
        name = key_of_call(self, key)
        if self._quota is None or not self._quota.put_back(name, decision):
            yield from refund(self, name, decision)

    def release(self, decision: Decision, *, key: str | None = None) -> None:
        """Release the concurrency slot. One round trip; none without a limit on concurrency."""
        drive(concurrency.release(self, decision, key=key), self.store)

    async def arelease(self, decision: Decision, *, key: str | None = None) -> None:
        """:meth:`release` without blocking the event loop."""
        await adrive(concurrency.release(self, decision, key=key), self.store)

    def reset(self, *, key: str | None = None) -> None:
        """Forget everything that was taken. One round trip for each limit.

        Raises:
            BackendError, CircuitBreakerError: the store is unavailable.
        """
        name = key_of_call(self, key)
        try:
            for limit in self.limits:
                self.store.local.delete(limit.policy, [limit.key(name)])
                self.store.backend.delete(limit.policy, [limit.key(name)])
        finally:
            self.known_denials.clear()

    def __enter__(self) -> Decision:
        return self._enter(self.hit())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Blocks may end in any order, thread and context. With the oldest slot released, no block that still runs is
        # left with a slot that ends before its own would.
        if self._entered:  # otherwise this process was forked within the block, which the parent ends
            self.release(self._entered.popleft())

    async def __aenter__(self) -> Decision:
        return self._enter(await self.ahit())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._entered and concurrency.release_calls(self, decision := self._entered.popleft()):
            await finished(self.arelease(decision))

    def _enter(self, decision: Decision) -> Decision:
        if not decision.allowed:
            raise limit_exceeded(self, self.key, decision)
        self._entered.append(decision)
        return decision


_limiters: WeakSet[Limiter] = renewed_after_fork(lambda limiter: limiter._entered.clear())  # the parent ends its blocks


def reset_local_state() -> None:
    """Have all limiters of this process forget what they know; each looks for its store again."""
    for limiter in list(_limiters):
        limiter._store = limiter._fast_hit = None
        limiter.known_denials.clear()
        if limiter._quota is not None:
            limiter._quota.clear()
