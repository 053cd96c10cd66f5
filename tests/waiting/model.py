"""A small model of waiting: workers that move, ask and fetch, between a pretend broker and the real policies.

The explorer tries every order of the steps of two workers, with the faults that it is given, and checks each state. A
step is what nothing can divide: one round trip to the store, or one command to the broker.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from ratelimit_core._util.clock import SECOND
from ratelimit_core._util.steps import Steps, run
from ratelimit_core.errors import RateLimitExceeded
from ratelimit_core.policies import ALLOWED, CONCURRENCY, COUNTER, FIXED_WINDOW, PLACE, WAIT, Verdict
from ratelimit_core.policies.concurrency import HIT, REFUND
from ratelimit_core.protocol import place
from ratelimit_core.protocol.call import Call
from ratelimit_core.waiting.keys import WaitingKeys
from tests.conformance.reference import Reference

QUEUE = "tasks"
PERIOD = SECOND
TIMEOUT = 2 * SECOND
START = 1_000 * SECOND


class Message(NamedTuple):
    id: int
    key: str


class Admitted(NamedTuple):
    """An admission, as the question of a worker returns it."""

    key: str
    lease_id: str


@dataclass
class Held:
    """A message that a worker has and has not acknowledged.

    ``origin`` is the number of the queue that it came from, or -1 for the source queue. ``phase`` is what comes next.
    """

    message: Message
    origin: int
    phase: str
    to: int = -1
    admitted: Admitted | None = None


@dataclass
class Worker:
    name: str
    keys: WaitingKeys = field(default_factory=lambda: WaitingKeys(QUEUE, most_numbers=4))
    held: list[Held] = field(default_factory=list)
    grants: list[tuple[str, int, Admitted]] = field(default_factory=list)
    empty: set[str] = field(default_factory=set)
    life: int = 0

    def clone(self) -> Worker:
        keys = WaitingKeys(QUEUE, most_numbers=self.keys.most_numbers)
        keys.lost = set(self.keys.lost)
        keys._known = {key: copy(known) for key, known in self.keys._known.items()}
        held = [replace(each) for each in self.held]
        return Worker(self.name, keys, held, list(self.grants), set(self.empty), self.life)

    def busy(self) -> int:
        return len(self.grants) + sum(held.phase in ("decide", "run") and held.origin < 0 for held in self.held)


@dataclass
class World:
    """Everything: the clock, the store, the broker, the workers, and what was seen."""

    now: int
    store: Reference
    source: list[Message]
    waiting: dict[int, list[Message]]
    workers: list[Worker]
    faults: tuple[str, ...]
    done: list[int] = field(default_factory=list)
    started: list[int] = field(default_factory=list)
    begun: list[tuple[int, str]] = field(default_factory=list)
    blemished: bool = False
    """Whether a fault has happened after which a limit may be spent once more, or a task may run twice."""

    def clone(self) -> World:
        world = replace(self)
        world.store = Reference(lambda: world.now)
        world.store.records = dict(self.store.records)
        world.store.leases = dict(self.store.leases)
        world.source = list(self.source)
        world.waiting = {number: list(messages) for number, messages in self.waiting.items()}
        world.workers = [worker.clone() for worker in self.workers]
        world.done = list(self.done)
        world.started = list(self.started)
        world.begun = list(self.begun)
        return world

    def perform(self, step: tuple[Any, ...]) -> Any:
        method, *arguments = step
        if method == "apply":
            return self.store.apply(*arguments)
        batches, most = arguments
        verdicts: list[list[Verdict]] = []
        allowed = 0
        for batch in batches:
            if most is not None and allowed == most:
                verdicts.append([])
                continue
            verdicts.append(self.store.apply(batch))
            allowed += all(verdict[ALLOWED] for verdict in verdicts[-1])
        return verdicts

    def queue(self, number: int) -> list[Message]:
        return self.source if number < 0 else self.waiting.setdefault(number, [])

    def state(self) -> Any:
        """What tells two worlds apart. Times count from now, and what has ended does not count."""
        now = self.now
        records = tuple(
            sorted(
                (name, key, canonical(name, record, now))
                for (name, key), (expires, record) in self.store.records.items()
                if expires > now and name != COUNTER.name
            )
        )
        leases = tuple(
            sorted(
                (where, tuple(sorted((lease.ends - now, lease.owner) for lease in found if lease.ends > now)))
                for where, found in self.store.leases.items()
            )
        )
        workers = tuple(
            (
                tuple(
                    sorted(
                        (key, known.number, max(0, known.ask_at - now), known.moved, known.blocked_by_runs)
                        for key, known in worker.keys._known.items()
                    )
                ),
                tuple(sorted(worker.keys.lost)),
                tuple(sorted((h.message, h.origin, h.phase, h.to, h.admitted or ()) for h in worker.held)),
                tuple(sorted(worker.grants)),
                tuple(sorted(worker.empty)),
            )
            for worker in self.workers
        )
        waiting = tuple(sorted((number, tuple(found)) for number, found in self.waiting.items() if found))
        seen: tuple[Any, ...] = (tuple(sorted({*self.done})), tuple(self.started if len(self.workers) == 1 else ()))
        if not self.blemished:
            seen += tuple(sorted((at - now, key) for at, key in self.begun if at > now - PERIOD))
        return (
            records,
            leases,
            workers,
            tuple(self.source),
            waiting,
            self.faults,
            seen,
            self.blemished,
        )


def canonical(name: str, record: tuple[int, ...], now: int) -> tuple[int, ...]:
    """What of a record decides what comes."""
    if name == FIXED_WINDOW.name:
        start, count = record
        return start - now, count
    holder, _, touched_at, turn, _ = record
    return holder, max(touched_at - now, -place.LEAVE_MARGIN), max(0, turn - now)


def limit_of(key: str, lease_id: str, op: int = HIT) -> Call:
    """A key that begins with R has a rate of one a second. Any other has a concurrency of one."""
    if key.startswith("R"):
        return Call(FIXED_WINDOW, (key, ""), (op, 1), (1, PERIOD))
    return Call(CONCURRENCY, (key, ""), (op, 1, 0), (1, TIMEOUT), lease_id)


class MustWait(Exception):
    """Tasks of this key wait already."""

    def __init__(self, number: int) -> None:
        self.number = number


def acquire(key: str, lease_id: str) -> Steps[Admitted]:
    call = limit_of(key, lease_id)
    [verdict] = yield "apply", [call]
    if not verdict[ALLOWED]:
        raise denial(key, verdict)
    return Admitted(key, lease_id)


def denial(key: str, verdict: Verdict) -> RateLimitExceeded:
    return RateLimitExceeded(key, verdict[WAIT] / SECOND, until_released=not key.startswith("R"))


def newcomer(key: str, lease_id: str) -> Steps[Admitted]:
    """The question of a task that comes from the source queue: behind those that wait."""
    found, verdict = yield "apply", [place.look(QUEUE, key), limit_of(key, lease_id)]
    if not found[ALLOWED]:
        raise MustWait(place.PlaceVerdict.of(found).holder - 1)
    if not verdict[ALLOWED]:
        raise denial(key, verdict)
    return Admitted(key, lease_id)


Step = tuple[str, Callable[[World], None]]


def steps(world: World, *, atomic_move: bool, room: int) -> Iterator[Step]:
    """Every step that is possible in this state, by name. Time passes if nothing else happens, or as a fault."""
    possible = list(steps_of_all(world, atomic_move=atomic_move, room=room))
    yield from possible
    later = next_time(world)
    if later is not None and not possible:
        yield "time", lambda world: pass_time(world, later)
    for fault in sorted(set(world.faults)):
        yield from fault_steps(fault, world)


def steps_of_all(world: World, *, atomic_move: bool, room: int) -> Iterator[Step]:
    for i, worker in enumerate(world.workers):
        yield from worker_steps(i, worker, world, atomic_move=atomic_move, room=room)
    if any(world.waiting.values()):
        stranded = stranded_number(world)
        if stranded is not None:
            yield f"sweep {stranded}", lambda world: sweep(world, stranded)


def worker_steps(i: int, worker: Worker, world: World, *, atomic_move: bool, room: int) -> Iterator[Step]:
    name = worker.name
    if world.source and not any(held.phase == "decide" for held in worker.held) and worker.busy() < room:
        yield f"{name} takes", lambda world: take(world, i)
    for j, held in enumerate(worker.held):
        what = f"{name} {held.phase} {held.message.id}"
        match held.phase:
            case "decide" if not any(each.phase == "enter" for each in worker.held):  # one thread decides
                yield what, lambda world, j=j: decide(world, i, j)  # type: ignore[misc]
            case "enter":
                yield what, lambda world, j=j: enter(world, i, j)  # type: ignore[misc]
            case "move" if all(each.phase != "move" for each in worker.held[:j]):  # in the order in which they came
                yield what, lambda world, j=j: move(world, i, j, acknowledged=atomic_move)  # type: ignore[misc]
            case "acknowledge":
                yield what, lambda world, j=j: acknowledge(world, i, j)  # type: ignore[misc]
            case "run":
                yield what, lambda world, j=j: finish(world, i, j)  # type: ignore[misc]
    if worker.grants:
        yield f"{name} fetches", lambda world: fetch(world, i)
    for key in sorted(worker.empty):
        yield f"{name} leaves {key}", lambda world, key=key: leave(world, i, key)  # type: ignore[misc]
    for key in sorted(worker.keys.lost):
        yield f"{name} enters {key} again", lambda world, key=key: enter_again(world, i, key)  # type: ignore[misc]
    can_ask = worker.keys.due(world.now) and worker.busy() < room
    if can_ask or any(known.moved for known in worker.keys._known.values()):
        yield f"{name} asks", lambda world: ask(world, i, room)


def take(world: World, i: int) -> None:
    world.workers[i].held.append(Held(world.source.pop(0), -1, "decide"))


def decide(world: World, i: int, j: int) -> None:
    worker = world.workers[i]
    held = worker.held[j]
    key = held.message.key
    number = worker.keys.number_of(key)
    if number is not None:
        held.phase, held.to = "move", number
        return
    try:
        admitted = run(newcomer(key, next(lease_ids(worker))), world.perform)
    except MustWait as waits:
        worker.keys.found(key, waits.number)
        held.phase, held.to = "move", waits.number
    except RateLimitExceeded:
        held.phase = "enter"
    else:
        begin(world, held, admitted)


def lease_ids(worker: Worker) -> Iterator[str]:
    """Ids that no lease of the worker has. A worker that was killed has others."""
    admitted = [each for _, _, each in worker.grants] + [held.admitted for held in worker.held]
    used = {each.lease_id for each in admitted if each is not None}
    ids = (f"{worker.name}.{worker.life}.{i}" for i in itertools.count())
    return (each for each in ids if each not in used)


def begin(world: World, held: Held, admitted: Admitted) -> None:
    held.phase, held.admitted = "run", admitted
    world.started.append(held.message.id)
    key = held.message.key
    if not world.blemished:
        if key.startswith("R"):
            assert not [at for at, other in world.begun if other == key and at > world.now - PERIOD], "over the rate"
        else:
            others = [h for w in world.workers for h in w.held if h.phase == "run" and h.message.key == key]
            assert len(others) == 1, "over the concurrency"
    world.begun = [(at, other) for at, other in world.begun if at > world.now - PERIOD] + [(world.now, key)]


def enter(world: World, i: int, j: int) -> None:
    worker = world.workers[i]
    held = worker.held[j]
    held.phase, held.to = "move", run(worker.keys.enter(held.message.key), world.perform)


def enter_again(world: World, i: int, key: str) -> None:
    run(world.workers[i].keys.enter(key), world.perform)


def move(world: World, i: int, j: int, *, acknowledged: bool) -> None:
    worker = world.workers[i]
    held = worker.held[j]
    world.queue(held.to).append(held.message)
    if worker.keys.number_of(held.message.key) is None:  # left while this one was on its way
        worker.keys.found(held.message.key, held.to)
    worker.keys.moved(held.message.key)
    if acknowledged:
        del worker.held[j]
    else:
        held.phase = "acknowledge"


def acknowledge(world: World, i: int, j: int) -> None:
    del world.workers[i].held[j]


def ask(world: World, i: int, room: int) -> None:
    worker = world.workers[i]
    free, ids = room - worker.busy(), lease_ids(worker)

    def question(key: str) -> Steps[Admitted]:
        return acquire(key, next(ids))

    for granted in run(worker.keys.ask(world.now, free, question), world.perform):
        worker.grants += [(granted.key, granted.number, admitted) for admitted in granted.admissions]


def fetch(world: World, i: int) -> None:
    worker = world.workers[i]
    key, number, admitted = worker.grants.pop(0)
    queue = world.queue(number)
    if queue and queue[0].key == key:
        held = Held(queue.pop(0), number, "run")
        worker.held.append(held)
        begin(world, held, admitted)
        return
    refund(world, admitted)
    if queue:
        worker.held.append(Held(queue.pop(0), number, "decide"))  # of another key: it goes to its own
    else:
        worker.empty.add(key)


def refund(world: World, admitted: Admitted) -> None:
    if not admitted.key.startswith("R"):  # a rate that was taken and not used stays taken
        world.store.apply([limit_of(admitted.key, admitted.lease_id, REFUND)])


def leave(world: World, i: int, key: str) -> None:
    worker = world.workers[i]
    worker.empty.discard(key)
    run(worker.keys.leave(key, world.now), world.perform)


def finish(world: World, i: int, j: int) -> None:
    worker = world.workers[i]
    held = worker.held.pop(j)
    assert held.admitted is not None
    if not held.message.key.startswith("R"):
        world.store.apply([limit_of(held.message.key, held.admitted.lease_id, REFUND)])
    worker.keys.ended(held.message.key, world.now)
    assert world.blemished or held.message.id not in world.done, "it ran twice"
    world.done.append(held.message.id)


def stranded_number(world: World) -> int | None:
    """The lowest number whose tasks no worker will ask for, which the sweep of any worker finds."""
    for number, messages in sorted(world.waiting.items()):
        if messages:
            key = messages[0].key
            known = [worker.keys.number_of(key) for worker in world.workers]
            if number not in known:
                return number
    return None


def sweep(world: World, number: int) -> None:
    """One worker looks at the head of a waiting queue. If its key has another number, the task is moved there."""
    worker = world.workers[0]
    key = world.waiting[number][0].key
    worker.keys.found(key, number)
    assigned = run(worker.keys.enter(key), world.perform)
    if assigned != number:
        worker.held.append(Held(world.waiting[number].pop(0), number, "move", to=assigned))


def next_time(world: World) -> int | None:
    """The next moment at which something can change without anybody's doing."""
    now = world.now
    times = [known.ask_at for worker in world.workers for known in worker.keys._known.values()]
    times += [lease.ends for found in world.store.leases.values() for lease in found]
    times += [record[0] + PERIOD for (name, _), (_, record) in world.store.records.items() if name == FIXED_WINDOW.name]
    for (name, _), (expires, record) in world.store.records.items():
        if name == PLACE.name and expires > now and record[0]:
            times.append(record[2] + place.LEAVE_MARGIN)
    return min((time for time in times if time > now), default=None)


def pass_time(world: World, now: int) -> None:
    """Let time pass. Workers that live renew their leases meanwhile."""
    world.now = now
    admitted = [a for worker in world.workers for _, _, a in worker.grants]
    admitted += [held.admitted for worker in world.workers for held in worker.held if held.admitted is not None]
    for each in admitted:
        where = CONCURRENCY.name, (each.key, "")
        if where in world.store.leases:
            world.store.leases[where] = [
                lease._replace(ends=now + TIMEOUT) if lease.owner == each.lease_id else lease
                for lease in world.store.leases[where]
            ]


def fault_steps(fault: str, world: World) -> Iterator[Step]:
    left = list(world.faults)
    left.remove(fault)

    def spend(world: World) -> None:
        world.faults = tuple(left)
        world.blemished = world.blemished or fault != "slow"

    match fault:
        case "slow":
            later = next_time(world)

            def stand_still(world: World) -> None:
                spend(world)
                assert later is not None
                pass_time(world, later)

            if later is not None:
                yield "time passes meanwhile", stand_still
        case "kill" | "disconnect":
            for i, worker in enumerate(world.workers):

                def lose(world: World, i: int = i) -> None:
                    spend(world)
                    lose_connection(world, i, killed=fault == "kill")

                if worker.held or worker.grants or worker.keys._known:
                    yield f"{worker.name} {fault}", lose
        case "flush":

            def flush(world: World) -> None:
                spend(world)
                world.store.records.clear()
                world.store.leases.clear()

            if world.store.records:
                yield "flush", flush
        case "back":

            def back(world: World) -> None:
                spend(world)
                world.now -= PERIOD // 2

            yield "back", back


def lose_connection(world: World, i: int, *, killed: bool) -> None:
    """The broker gives back what was not acknowledged, to the queue that it came from. A killed worker starts again."""
    worker = world.workers[i]
    for held in reversed(worker.held):
        world.queue(held.origin).insert(0, held.message)
    world.workers[i] = Worker(worker.name, life=worker.life + 1)
    if not killed:
        world.workers[i].keys = worker.keys


class Counterexample(AssertionError):
    """The steps that lead to a state which must not be."""


def explore(
    keys: list[str], *, workers: int = 2, room: int = 1, faults: tuple[str, ...] = (), atomic_move: bool = True
) -> int:
    """Try every order of steps. Return how many states there are.

    Raises:
        Counterexample: a task is lost, runs twice, runs above a limit, or waits for ever.
    """
    messages = [Message(i, key) for i, key in enumerate(keys)]
    first = World(START, Reference(lambda: START), messages, {}, [Worker(f"w{i}") for i in range(workers)], faults)
    first = first.clone()
    origin = first.state()
    came_from: dict[Any, tuple[Any, str] | None] = {origin: None}
    leads_to: dict[Any, list[Any]] = {}
    finished: list[Any] = []
    todo = deque([(origin, first)])
    while todo:
        state, world = todo.popleft()
        check_nothing_is_lost(world, messages, state, came_from)
        if len(world.faults) == len(faults) and stranded_number(world) is not None:
            raise Counterexample("only a sweep would find a task, although nothing failed:\n" + path(state, came_from))
        if workers == 1 and not world.blemished and not in_order(world.started, keys):
            raise Counterexample("tasks of one key overtook each other:\n" + path(state, came_from))
        if {*world.done} == {*range(len(keys))} and not world.source and not any(world.waiting.values()):
            finished.append(state)
        for name, step in steps(world, atomic_move=atomic_move, room=room):
            after = world.clone()
            try:
                step(after)
            except AssertionError as error:
                raise Counterexample(f"{error}:\n" + path(state, came_from) + f"\n{name}") from error
            found = after.state()
            if len(after.faults) == len(world.faults):
                leads_to.setdefault(found, []).append(state)
            if found not in came_from:
                came_from[found] = (state, name)
                todo.append((found, after))
    check_nothing_waits_for_ever(finished, leads_to, came_from)
    return len(came_from)


def in_order(started: list[int], keys: list[str]) -> bool:
    of_each_key = [[number for number in started if keys[number] == key] for key in {*keys}]
    return all(numbers == sorted(numbers) for numbers in of_each_key)


def check_nothing_is_lost(world: World, messages: list[Message], state: Any, came_from: Any) -> None:
    there = {message.id for message in world.source}
    there |= {message.id for found in world.waiting.values() for message in found}
    there |= {held.message.id for worker in world.workers for held in worker.held}
    if lost := {message.id for message in messages} - there - {*world.done}:
        raise Counterexample(f"{lost} lost:\n" + path(state, came_from))


def check_nothing_waits_for_ever(finished: list[Any], leads_to: dict[Any, list[Any]], came_from: Any) -> None:
    """From each state, the end can be reached without another fault."""
    reaches_the_end = set(finished)
    todo = list(finished)
    while todo:
        for before in leads_to.get(todo.pop(), ()):
            if before not in reaches_the_end:
                reaches_the_end.add(before)
                todo.append(before)
    if stuck := next((state for state in came_from if state not in reaches_the_end), None):
        raise Counterexample("the end can't be reached any more:\n" + path(stuck, came_from))


def path(state: Any, came_from: Any) -> str:
    names = []
    while came_from[state] is not None:
        state, name = came_from[state]
        names.append(name)
    return "\n".join(reversed(names))
