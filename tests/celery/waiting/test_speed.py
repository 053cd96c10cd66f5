"""What moves and fetches cost: ``pytest -s -m timed tests/celery/waiting`` prints it."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from .conftest import Place
from .test_moving import publish
from .worker import origin_of

pytestmark = pytest.mark.timed
COUNT = 2_000
MANY = 20_000


@contextmanager
def measured(what: str, kind: str, count: int) -> Iterator[list[float]]:
    rates: list[float] = []
    began, cpu = time.perf_counter(), time.process_time()
    yield rates
    took, cpu = time.perf_counter() - began, time.process_time() - cpu
    rates.append(count / took)
    print(f"{kind}: {what}: {count / took:,.0f}/s, {1e3 * took / count:.2f} ms, {1e3 * cpu / count:.2f} ms of CPU")


def test_moves_and_fetches_per_second(place: Place) -> None:
    publish(place, COUNT)
    worker = place.start()
    with measured("declare", place.kind, 1):
        to = worker.broker.declare(place.name, 0)
    worker.consume()
    worker.until(lambda: len(worker.received) >= 100)
    with measured("receive and move", place.kind, COUNT - 100) as moves:
        messages, worker.received = worker.received, []
        moved: list[bool] = []
        worker.on_message = lambda message: worker.broker.move(message, to, origin_of(message), moved.append)
        for message in messages:
            worker.on_message(message)
        worker.until(lambda: len(moved) == COUNT)
    with measured("fetch 10 and acknowledge", place.kind, COUNT) as fetches:
        for _ in range(0, COUNT, 10):
            for message in worker.fetch(to, 10):
                message.ack()
    assert moves[0] > 100
    assert fetches[0] > 100


@pytest.mark.whole
@pytest.mark.timeout(300)
def test_memory_stays_as_it_is(place: Place) -> None:
    """Over as many moves and fetches, between two waiting queues."""
    publish(place, 100)
    worker = place.start()
    names = [worker.broker.declare(place.name, number) for number in range(2)]
    worker.move_all(names[0], 100)
    worker.pause()
    sizes: list[int] = []
    moves = 0
    while moves < MANY:
        moved: list[bool] = []
        for message in worker.fetch(names[0], 100):
            worker.broker.move(message, names[1], origin_of(message), moved.append)
        worker.until(lambda moved=moved: len(moved) == 100)  # type: ignore[misc]
        assert all(moved)
        names.reverse()
        moves += 100
        if moves % 2_000 == 0:
            gc.collect()
            sizes.append(psutil.Process().memory_info().rss)
    print(f"{place.kind}: MiB after each 2,000 moves: {[round(size / 2**20, 1) for size in sizes]}")
    assert sizes[-1] - sizes[2] < 2**20
    assert worker.broker.count(names[0]) == 100
