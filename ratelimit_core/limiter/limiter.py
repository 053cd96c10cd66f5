"""Rate limits and concurrency limits that all processes on one backend share."""

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
            ...  # raises RateLimitExceeded if a limit is reached
        reservation = limiter.reserve(max_wait=30)  # redeem it after reservation.retry_after seconds

    Several limits make one decision: either all of them count the hit, or none does.

    Args:
        rate: one or several rates; None if there is only a ``concurrency``.
        key: the name of what is limited. Limiters with the same key, rate and algorithm share one count.
        algorithm: ``sliding_window`` (the default) never allows more than the limit in any period, and stores every
            hit. ``sliding_window_counter`` never allows more either, and needs constant memory. But a caller that is
            always at the limit gets only 80 % of it. ``fixed_window`` allows up to twice the limit around a boundary.
            ``token_bucket`` allows up to ``burst + limit`` in a period. ``leaky_bucket`` is a token bucket of size 1,
            which spaces calls evenly. A reservation of a bucket may be redeemed a quarter of a second late, or one
            spacing late if that is longer. The rate may be exceeded by the calls that fit into this time.
        burst: the size of a token bucket; by default the limit.
        concurrency: the maximum number of calls that run at a time. A call takes one slot, whatever its cost.
        timeout: the seconds after which a slot ends by itself if nothing releases it, as when its holder has died.
        backend: the backend to use instead of the configured one.
        on_store_failure: what to do while the store is unavailable: ``"local"`` (this process decides alone),
            ``"allow"`` (allow every call) or ``"deny"`` (deny every call).
        spacing_margin: with ``sliding_window``, how much farther apart reservations are than the rate requires; 0.03 is
            3 %. The rate is kept even without it. With it, one late caller does not make all later callers late.
        local_quota: the size of a block that this object takes from the shared limit in one round trip and spends
            without asking. A block counts as used when it is taken. So in any period, each object may exceed the
            algorithm's maximum by one block for each key. A block ends with its window, or with :meth:`return_unused`.
            If there is no room for a whole block, each hit asks the store.
        clock: measures ages. Tests may replace the clock.

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
        """The store of ``backend``, or the store that is configured when it is first needed."""
        if self._store is None:
            self._store = configured.get_store(self._backend)
            if len(self.limits) == 1 and self._quota is None:
                self._fast_hit = self.limits[0].fast_hit(self._store.backend)
        return self._store

    def hit(self, cost: int = 1, *, key: str | None = None) -> Decision:
        """Take ``cost`` from every limit, or take nothing if one of them denies.

        A hit costs one round trip. It costs none if a denial is already known or the local quota has a unit left, and
        two if the local quota finds no room for a new block.

        Raises:
            ConfigurationError: ``cost`` is not a whole number from 1 to the smallest limit.
        """
        name = self.key if key is None else key_of_call(self, key)
        fast_hit = self._fast_hit
        if fast_hit is not None and cost == 1 and type(cost) is int:
            return fast_hit(name)
        decision = self._decide_here(name, cost)
        return drive(self._hit(name, cost), self._store or self.store) if decision is None else decision

    async def ahit(self, cost: int = 1, *, key: str | None = None) -> Decision:
        """Do as :meth:`hit` does, without blocking the event loop. If cancelled, release the concurrency slot."""
        name = self.key if key is None else key_of_call(self, key)
        if self._fast_hit is not None and cost == 1 and type(cost) is int:
            return self._fast_hit(name)
        decision = self._decide_here(name, cost)
        return await self._acquire(self._hit(name, cost), key) if decision is None else decision

    def _decide_here(self, name: str, cost: int) -> Decision | None:
        """Decide by the local quota or by a known denial. Return None if the store has to be asked."""
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
        """Run steps that may acquire a concurrency slot. If cancelled, release the slot."""
        if any(limit.policy is CONCURRENCY for limit in self.limits):
            return await acquired(adrive(steps, self.store), partial(self.arelease, key=key))
        return await adrive(steps, self.store)

    def return_unused(self) -> None:
        """Give back the unused local quota, for example at the end of a process. Costs one round trip for each key."""
        if self._quota is not None:
            drive(self._quota.return_unused(self), self.store)

    def peek(self, cost: int = 1, *, key: str | None = None) -> Decision:
        """Return the decision of a :meth:`hit` without taking anything. Costs one round trip."""
        return drive(peek_check(self, key_of_call(self, key), cost).ask(), self.store)

    async def apeek(self, cost: int = 1, *, key: str | None = None) -> Decision:
        """Do as :meth:`peek` does, without blocking the event loop."""
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
        """Reserve ``cost`` at the first free time from ``not_before`` to ``max_wait``.

        An allowed reservation is due in ``retry_after`` seconds. Wait for this time, and then :meth:`redeem` it.

        If a sliding window has the longest wait, all sliding windows hold the reservation. A window whose period is
        over before the reservation is due gives back its part at once. If a bucket has the longest wait, only this
        bucket holds the reservation, because a reservation of a bucket that is missed is lost. :meth:`redeem` asks the
        limits that do not hold the reservation. If the concurrency limit has the longest wait, nothing is reserved,
        because it is unknown when a slot will be free.

        A reservation costs one round trip if there is room now, otherwise two. With ``denied_by`` or ``not_before``, it
        always costs one. Giving back a part costs one more.

        Args:
            max_wait, not_before: seconds from now.
            cost, key: as for :meth:`hit`.
            lease_id: the id of the reservation. A sliding window that already holds a reservation with this id keeps
                it, unless it is due sooner than ``not_before``. A bucket makes a new reservation.
            denied_by: the index of the limit that has just denied a hit, from the hit's decision. If it is given, the
                limits are not asked again for room now.

        Raises:
            ConfigurationError: the limits take no reservations, or an argument is wrong.
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
        """Do as :meth:`reserve` does, without blocking the event loop. If cancelled, give the reservation back."""
        steps = reservations.reserve(self, max_wait, cost, key, not_before, lease_id, denied_by)
        return await acquired(adrive(steps, self.store), partial(self.arefund, key=key))

    def redeem(self, reservation: Decision, *, key: str | None = None) -> Decision:
        """Redeem a reservation that is due. Costs at most one round trip.

        Before ``retry_after`` the call is denied, and the reservation is kept. If the reservation has ended or was
        redeemed already, the call is a new hit.
        """
        return drive(reservations.redeem(self, reservation, key=key), self.store)

    async def aredeem(self, reservation: Decision, *, key: str | None = None) -> Decision:
        """Do as :meth:`redeem` does, without blocking the event loop. If cancelled, release the concurrency slot."""
        return await self._acquire(reservations.redeem(self, reservation, key=key), key)

    def refund(self, decision: Decision, *, key: str | None = None) -> None:
        """Give back the cost of ``decision`` (only once), as far as the algorithm can. Costs at most one round trip."""
        drive(self._refund(decision, key), self.store)

    async def arefund(self, decision: Decision, *, key: str | None = None) -> None:
        """Do as :meth:`refund` does, without blocking the event loop."""
        await adrive(self._refund(decision, key), self.store)

    def _refund(self, decision: Decision, key: str | None) -> Steps[None]:
        name = key_of_call(self, key)
        if self._quota is None or not self._quota.put_back(name, decision):
            yield from refund(self, name, decision)

    def release(self, decision: Decision, *, key: str | None = None) -> None:
        """Release the concurrency slot of ``decision``. Costs one round trip; none without a concurrency limit."""
        drive(concurrency.release(self, decision, key=key), self.store)

    async def arelease(self, decision: Decision, *, key: str | None = None) -> None:
        """Do as :meth:`release` does, without blocking the event loop."""
        await adrive(concurrency.release(self, decision, key=key), self.store)

    def reset(self, *, key: str | None = None) -> None:
        """Forget all hits, reservations and slots of ``key``. Costs one round trip for each limit.

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
        # Blocks may end in any order, thread and context. Releasing the oldest slot is safe, because the remaining
        # slots end no sooner than the slots of the blocks that still run.
        if self._entered:  # otherwise this process was forked inside the block, and the parent has the slot
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


_limiters: WeakSet[Limiter] = renewed_after_fork(lambda limiter: limiter._entered.clear())  # the parent has the slots


def reset_local_state() -> None:
    """Make all limiters of this process forget their store, their known denials and their local quota."""
    for limiter in list(_limiters):
        limiter._store = limiter._fast_hit = None
        limiter.known_denials.clear()
        if limiter._quota is not None:
            limiter._quota.clear()
