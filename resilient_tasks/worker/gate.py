"""Pause queues in the consumer: those of tasks with ``on_open="pause"``, and those with too many deferred tasks.

A timer in the consumer checks the breakers, because no other event tells an idle worker that a breaker has changed.
Only the consumer's own thread changes the consumer. Messages of a paused queue stay in the broker, so they need no
redelivery, take no memory in the worker, and have no visibility timeout.

Each breaker has a :class:`Lane`. While the breaker is open, the lane is stopped. When a probe is due, the worker that
gets the probe's lease takes one task out of the queue. When the breaker has closed, the queue is resumed, and its tasks
run turn by turn for as long as this makes the queue shorter.

This module has over 300 lines because one bootstep has everything that only the consumer's thread may change.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from celery import Celery, bootsteps
from celery.worker import state

from ratelimit_core.circuit_breaker import CircuitBreaker
from ratelimit_core.errors import BackendError, CircuitBreakerError, ResilienceError

from ..execution.run import running_here
from ..queues import longest_countdown, messages_in, usual_queue
from ..settings import ENABLED
from . import commands  # noqa: F401 - a worker knows its commands
from .gates import gates
from .lane import Lane, Mode
from .warnings import advise

if TYPE_CHECKING:
    from ..execution.run import Refused
    from ..protection import Protection
    from .request import ResilientRequest

logger = logging.getLogger("resilient_tasks")

TICK = 0.5
"""The seconds between two checks of the breakers."""
RENEW_EVERY = 60.0
"""The seconds between two renewals of the leases of running tasks, which last for five minutes."""
GIVE_BACK_AFTER = 1.0
"""The seconds after which held tasks go back to the broker. By then every worker has paused the queue."""
_TRIES = 20
"""The maximum number of messages to fetch from a queue in search of a task that can be the probe."""
_AT_ONCE = 0.005
_SHRINKS = 0.75
"""If a queue does not shrink to this part while its tasks resume turn by turn, its tasks resume at once."""


def _ask_the_store() -> None:
    """Ask the store once before the pool's processes start, so that they inherit whether the store is available.

    Raises:
        ConfigurationError: the store's configuration is wrong. The worker does not start.
    """
    with suppress(BackendError):
        CircuitBreaker("resilience").peek()


class Gate(bootsteps.StartStopStep):
    """The consumer's step that pauses and resumes queues."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._consumer = consumer
        self._app: Celery = consumer.app
        self._lanes: dict[str, Lane] = {}
        self._left_alone: set[str] = set()
        self._waiting: dict[str, weakref.WeakSet[ResilientRequest]] = {}
        self._overfull: set[str] = set()
        self._catching_up: dict[str, float] = {}  # queues that were overfull: when their turns end
        self._lock = threading.RLock()  # timers have a thread of their own where there is no event loop
        self._timers: list[Any] = []
        self._advised = False
        gates[self._app] = consumer.resilience_gate = self
        if ENABLED:
            _ask_the_store()

    def start(self, consumer: Any) -> None:
        """Pause the queues of open breakers before the consumer begins."""
        if not ENABLED:
            return
        if not self._advised:
            self._advised = True
            for advice in advise(self._app):
                logger.warning("%s", advice)
        self._left_alone.clear()
        self._waiting.clear()
        self._overfull.clear()
        self._catching_up.clear()
        for protection, queue in _pausing(self._app):
            self._lane(protection).queues.add(queue)
        for lane in self._lanes.values():  # the connection was lost, so the broker delivers held messages again
            lane.held.clear()
            if lane.prober is not None and lane.prober.time_start is not None:
                lane.permit = None  # the probe still runs, and settles the permit itself
            lane.end_probe()
            lane.mode = Mode.FLOWING
        self._look_round()
        self._timers = [
            consumer.timer.call_repeatedly(TICK, self._soon, (self._look_round,)),
            consumer.timer.call_repeatedly(RENEW_EVERY, self._renew),  # also while a full pool holds the consumer up
        ]

    def stop(self, consumer: Any) -> None:
        """Cancel the timers: the connection is lost, or the worker ends."""
        for timer in self._timers:
            timer.cancel()
        self._timers = []

    def info(self, consumer: Any) -> Any:
        """Return the state for ``celery inspect stats`` and the ``breakers`` command."""
        with self._lock:
            return {
                "paused_queues": sorted(self._left_alone),
                "breakers": {name: lane.mode.name.lower() for name, lane in self._lanes.items()},
                "deferred_in_worker": {queue: len(waiting) for queue, waiting in self._waiting.items() if waiting},
            }

    def _soon(self, function: Callable[..., Any], *args: Any) -> None:
        """Call ``function`` in the consumer's own thread."""
        if self._consumer.hub is not None:
            function(*args)
        else:
            self._consumer.call_soon(function, *args)

    # Called by the requests

    def received(self, request: ResilientRequest) -> None:
        """Take note of a message that came in: count it if it waits here, or use it as the probe."""
        protection = request.protection
        if protection is None:
            return
        with self._lock:
            if request.waits_here <= 0:
                lane = self._lanes.get(protection.breaker.name) if protection.breaker is not None else None
                if lane is not None and lane.mode is Mode.PROBING and lane.permit is not None and not lane.prober:
                    lane.prober = request
                    request.hand_over(lane.permit.lease_id)
                return
            if request.queue is None or not request.waiting.deferrals:
                return
            waiting = self._waiting.setdefault(request.queue, weakref.WeakSet())
            waiting.add(request)
            if len(waiting) >= protection.options.max_deferred_in_worker and request.queue not in self._overfull:
                self._overfull.add(request.queue)
                logger.warning(
                    "%d deferred tasks of queue %r wait in this worker: the queue is paused until there are fewer",
                    len(waiting),
                    request.queue,
                )
                self._consumer.call_soon(self._leave_and_take_up)

    def admits(self, request: ResilientRequest) -> bool:
        """Return whether the request may go to the pool now. If not, it is kept here and comes again by itself."""
        protection = request.protection
        if protection is None or not ENABLED:
            return True
        with self._lock:
            if request.queue is not None and request.queue in self._waiting:
                self._waiting[request.queue].discard(request)
            if protection.breaker is None:
                return True
            if protection.options.on_open != "pause":
                crowded = request.is_late or (request.queue in self._catching_up and not request.waiting.deferrals)
                return not crowded or self._is_its_turn(protection, request)
            lane = self._lane(protection)
            if request.queue is not None:
                lane.queues.add(request.queue)
            if lane.mode is Mode.FLOWING or lane.prober is request:
                return True
            if lane.mode is Mode.RELEASING:  # a reservation counts as a turn, and would be missed otherwise
                return request.waiting.slot is not None or self._has_turn(protection, request)
            self._hold(lane, request)
            return False

    def refused(self, request: ResilientRequest, refusal: Refused) -> None:
        """Take back a request whose run in the pool found the breaker open."""
        self._soon(self._refused, request, refusal)

    def finished(self, request: ResilientRequest) -> None:
        """Take note of a run that did not succeed. After a probe there is no need to wait for the timer."""
        if any(lane.prober is request for lane in list(self._lanes.values())):
            self._soon(self._look_round)

    # In the consumer's own thread

    def _refused(self, request: ResilientRequest, refusal: Refused) -> None:
        protection = request.protection
        if protection is None:
            request.give_back()
            return
        with self._lock:
            lane = self._lane(protection)
            if request.queue is not None:
                lane.queues.add(request.queue)
            if lane.prober is request:
                lane.end_probe()
            if lane.prober is None:
                lane.mode = Mode.STOPPED
            self._hold(lane, request, str(refusal))
            self._leave_and_take_up()

    def _look_round(self) -> None:
        with self._lock:
            for name, lane in list(self._lanes.items()):
                try:
                    before = lane.mode
                    self._step(lane)
                except ResilienceError as error:
                    logger.warning("breaker %r: %r", name, error)
                else:
                    if lane.mode is not before:
                        queues = ", ".join(sorted(lane.queues))
                        logger.info("breaker %r: %s is %s", name, queues, lane.mode.name.lower())
            for queue in list(self._overfull):
                if len(self._waiting[queue]) < 0.8 * self._most(queue):
                    self._overfull.discard(queue)
                    self._catching_up[queue] = time.monotonic() + self._count(queue) * self._between_turns(queue)
            for queue, until in list(self._catching_up.items()):
                if time.monotonic() > until or not self._count(queue):
                    del self._catching_up[queue]
            self._leave_and_take_up()

    def _renew(self) -> None:
        runs: list[Any] = list(running_here)
        if not runs:  # they run in children, if any
            runs = [each for each in list(state.active_requests) if hasattr(each, "renew") and each.worker_pid]
        for run in runs:
            with suppress(ResilienceError):
                run.renew()

    def _step(self, lane: Lane) -> None:
        state_now, wait = lane.breaker.peek(refresh=True)
        if state_now == "closed":
            if lane.mode in (Mode.STOPPED, Mode.PROBING):
                lane.end_probe()
                lane.mode = Mode.RELEASING
                self._by_turns(lane)
                self._let_go(lane)
            elif lane.mode is Mode.RELEASING:
                before = lane.waiting
                if self._is_empty(lane):
                    lane.mode = Mode.FLOWING
                elif time.monotonic() > lane.by_turns_until:
                    self._by_turns(lane)
                    if lane.waiting > _SHRINKS * before:  # more arrives than is released: that is its usual load
                        lane.mode = Mode.FLOWING
            return
        if lane.mode in (Mode.FLOWING, Mode.RELEASING):
            lane.mode = Mode.STOPPED
        if lane.mode is Mode.PROBING and (lane.prober is None or _has_ended(lane.prober)):
            lane.end_probe()
            lane.mode = Mode.STOPPED
        if lane.mode is Mode.STOPPED and wait <= 0 and not self._is_empty(lane):
            self._try_to_probe(lane)

    def _by_turns(self, lane: Lane) -> None:
        """Resume the messages that are in the queues now one by one."""
        lane.waiting = sum(map(self._count, lane.queues))
        lane.by_turns_until = time.monotonic() + lane.waiting * lane.protection.resume.between_turns

    def _try_to_probe(self, lane: Lane) -> None:
        consumer = self._consumer.task_consumer
        if consumer is None or consumer.on_message is None:  # it has not begun yet
            return
        try:
            permit = lane.breaker.acquire()
        except CircuitBreakerError:
            return
        if not permit.probe:  # it has closed in the meantime
            permit.cancel()
            return
        lane.permit, lane.mode = permit, Mode.PROBING
        self._leave_and_take_up()
        for queue in lane.queues:
            for _ in range(_TRIES):
                if lane.prober is not None or not self._fetch(queue):
                    break
        if lane.prober is None:
            lane.end_probe()
            lane.mode = Mode.STOPPED

    def _fetch(self, name: str) -> bool:
        """Take one message out of a paused queue, as if it had been delivered. Return False if there is none."""
        consumer = self._consumer.task_consumer
        queue = self._app.amqp.queues.consume_from.get(name)
        message = None if queue is None or consumer is None else queue(consumer.channel).get(no_ack=False)
        if message is None:
            return False
        message.accept = consumer.accept
        consumer.on_message(message)
        return True

    def _is_its_turn(self, protection: Protection, request: ResilientRequest) -> bool:
        """Return :meth:`_has_turn` of a request that would be deferred. While the breaker is open, return True."""
        breaker = request.subject.breaker if request.subject is not None else None
        if breaker is None or breaker.peek()[0] != "closed":
            return True
        return self._has_turn(protection, request)

    def _has_turn(self, protection: Protection, request: ResilientRequest) -> bool:
        """Return whether a task of a queue that was paused may run now. If not, it is kept here until its turn."""
        subject = request.subject
        if request.had_turn or subject is None:
            return True
        request.had_turn = True
        wait = min(
            protection.resume.turn(subject.name), longest_countdown(self._app)
        )  # or another worker would get it, too
        if wait <= _AT_ONCE:
            return True
        self._consumer.timer.call_after(wait, self._take_turn, (request,))
        return False

    def _take_turn(self, request: ResilientRequest) -> None:
        if request in state.reserved_requests:  # or else its connection is gone, and the broker delivers it again
            self._consumer.on_task_request(request)

    def _hold(self, lane: Lane, request: ResilientRequest, why: str = "") -> None:
        """Keep a task that was delivered in vain, until no worker takes it from the queue at once."""
        lane.held.append(request)
        request.waits(why or f"CircuitBreakerError({lane.breaker.name!r} open)")
        if len(lane.held) == 1:
            self._consumer.timer.call_after(GIVE_BACK_AFTER, self._soon, (self._let_go, lane))

    def _let_go(self, lane: Lane) -> None:
        with self._lock:
            held, lane.held = lane.held, []
            for request in held:
                if lane.mode in (Mode.FLOWING, Mode.RELEASING):
                    request.acknowledged or self._consumer.on_task_request(request)
                else:
                    request.give_back()

    def _leave_and_take_up(self) -> None:
        """Pause and resume queues of the consumer. Only queues that were paused here are resumed."""
        with self._lock:
            consumer = self._consumer.task_consumer
            if consumer is None:
                return
            leave = {queue for lane in self._lanes.values() if lane.stops for queue in lane.queues} | self._overfull
            for name in leave & {queue.name for queue in consumer.queues}:
                consumer.cancel_by_queue(name)
                self._left_alone.add(name)
            for name in self._left_alone - leave:
                self._left_alone.discard(name)
                queue = self._app.amqp.queues.consume_from.get(name)
                if queue is not None and not consumer.consuming_from(name):  # or else a person cancelled it
                    consumer.add_queue(queue)
                    consumer.consume()

    def _is_empty(self, lane: Lane) -> bool:
        return not any(self._count(queue) for queue in lane.queues)

    def _count(self, name: str) -> int:
        connection = self._consumer.connection
        queue = self._app.amqp.queues.consume_from.get(name)
        if queue is None or connection is None:
            return 0
        return messages_in(connection, queue.name)

    def _between_turns(self, queue: str) -> float:
        protections = [request.protection for request in self._waiting[queue]]
        return max((each.resume.between_turns for each in protections if each is not None), default=0.01)

    def _most(self, queue: str) -> int:
        protections = [request.protection for request in self._waiting[queue]]
        return min((each.options.max_deferred_in_worker for each in protections if each is not None), default=1)

    def _lane(self, protection: Protection) -> Lane:
        assert protection.breaker is not None
        name = protection.breaker.name
        if name not in self._lanes:
            self._lanes[name] = Lane(protection, protection.breaker)
        return self._lanes[name]


def _has_ended(request: ResilientRequest) -> bool:
    return request not in state.reserved_requests


def _pausing(app: Celery) -> Iterator[tuple[Protection, str]]:
    """Yield the protections with ``on_open="pause"``, with the queue that their tasks usually come from."""
    for task in list(app.tasks.values()):
        protection: Protection | None = getattr(task, "resilience", None)
        if protection is not None and protection.options.on_open == "pause" and protection.breaker is not None:
            yield protection, usual_queue(app, task)
        of_queue: Any = getattr(task, "resilience_of_queue", None)
        for queue in app.amqp.queues.consume_from if callable(of_queue) else ():
            protection = of_queue(queue)
            if protection is not None and protection.options.on_open == "pause":
                yield protection, queue
