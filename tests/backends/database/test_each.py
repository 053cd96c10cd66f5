"""Several batches in one transaction: what denied ones leave, and in which order records are locked."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from django.db import connections, transaction

from ratelimit_core._util.clock import SECOND
from ratelimit_core.backends import Call
from ratelimit_core.backends.database import DatabaseBackend, executor
from ratelimit_core.backends.database.sql import RECORDS
from ratelimit_core.policies import ALLOWED, CONCURRENCY, FIXED_WINDOW, RECORD, TOKEN_BUCKET
from ratelimit_core.testing import ManualClock
from tests.conformance.test_stores import PEEK, ask

from .test_transactions import hits, left, rows

REPEATED = 3
"""From the third call of a session on, PostgreSQL decides in one statement."""


def denied(number: int) -> list[Call]:
    return [ask(TOKEN_BUCKET, (f"new {number}", "")), ask(FIXED_WINDOW), ask(CONCURRENCY, (f"newer {number}", ""))]


def test_denied_batches_and_questions_leave_no_rows(backend: DatabaseBackend, alias: str, prefix: str) -> None:
    hits(backend, 3)
    for number in range(REPEATED):
        before = rows(alias, prefix)
        batches = [denied(number), [ask(TOKEN_BUCKET, ("asked", ""), PEEK)], denied(-number)]
        assert [batch[1:2] and batch[1][ALLOWED] for batch in backend.apply_each(batches)] == [0, [], 0]
        assert rows(alias, prefix) == before
        allowed = [ask(CONCURRENCY, ("place", ""), lease_id=f"{number}")]
        backend.apply_each([*batches, allowed, *batches])
        assert rows(alias, prefix) == (2, number + 1)


def test_new_records_of_batches_sweep_out_two_each_that_have_ended(
    backend: DatabaseBackend, alias: str, prefix: str, clock: ManualClock
) -> None:
    for number in range(REPEATED):  # so that functions are there
        backend.apply_each([[ask(FIXED_WINDOW, (f"{number}", ""))]])
    backend.clear()
    backend.apply_each([[ask(FIXED_WINDOW, (f"old {number}", ""))] for number in range(10)])
    clock.advance(10 * 24 * 3600)
    others = all_records(alias)  # what other tests have left may be swept out in place of these
    full = [ask(FIXED_WINDOW, ("new 0", ""))]
    backend.apply_each([[ask(FIXED_WINDOW, (f"new {number}", ""))] for number in range(3)])
    assert all_records(alias) == others + 3 - 6
    backend.apply_each([full, full, [*full, ask(FIXED_WINDOW, ("denied", ""))]])
    assert all_records(alias) == others + 3 - 6


def all_records(alias: str) -> int:
    with connections[alias].cursor() as cursor:
        cursor.execute(f"SELECT COUNT(*) FROM {RECORDS}")
        return int(cursor.fetchone()[0])


def test_in_a_transaction_of_the_caller(backend: DatabaseBackend, alias: str, prefix: str) -> None:
    hits(backend, 1)
    with transaction.atomic(alias):
        verdicts = backend.apply_each([[ask(FIXED_WINDOW)], [ask(FIXED_WINDOW)], denied(0), [ask(FIXED_WINDOW)]], 3)
    assert [[verdict[ALLOWED] for verdict in batch] for batch in verdicts] == [[1], [1], [1, 0, 1], [0]]
    assert left(backend) == 0
    assert rows(alias, prefix) == (1, 0)
    with transaction.atomic(alias):
        backend.apply_each([denied(1), denied(2)])
    assert rows(alias, prefix) == (1, 0)


KNOWN = {"known": (True, True), "new": (False, False), "half": (True, False), "other half": (False, True)}


@pytest.mark.parametrize("known", KNOWN.values(), ids=KNOWN)
def test_workers_that_ask_in_another_order_do_not_wait_for_each_other(
    server: str, prefix: str, known: tuple[bool, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On PostgreSQL, where a deadlock costs a second; MariaDB notices one at once, and the call begins again."""
    turns, workers, names = 25, 4, 12
    if server == "postgresql":
        monkeypatch.setattr(executor, "MAX_ATTEMPTS", 1)
    backends = [DatabaseBackend(server, timeout=10, key_prefix=prefix) for _ in range(workers)]
    together = Barrier(workers)

    def batches(turn: int) -> list[list[Call]]:
        turn_of_each = [0 if is_known else turn for is_known in known]
        keys = [[(f"name {i} {of}", q) for of, q in zip(turn_of_each, "xy", strict=True)] for i in range(names)]
        return [[Call(FIXED_WINDOW, key, (0, 1), (10_000, 3600 * SECOND)) for key in pair] for pair in keys]

    def work(worker: int) -> int:
        count = 0
        for turn in range(turns):
            asked = batches(turn)
            turned = [asked, asked[::-1], asked[5:] + asked[:5], [batch[::-1] for batch in asked]][worker]
            together.wait(30)
            verdicts = backends[worker].apply_each(turned)
            count += sum(verdict[ALLOWED] for batch in verdicts for verdict in batch)
        return count

    for backend in backends:
        for _ in range(REPEATED):
            backend.apply_each(batches(turns))
        backend.clear()
    with ThreadPoolExecutor(workers) as pool:
        assert sum(pool.map(work, range(workers))) == workers * turns * names * 2
    last = backends[0].apply_each(batches(0))
    counts = [(turns if is_known else 1) * workers + 1 for is_known in known]
    assert [[verdict[RECORD + 1] for verdict in batch] for batch in last] == [counts] * names
    backends[0].clear()
    for backend in backends:
        backend.close()


def test_the_servers_clock_is_read_once_for_all_batches(server: str, prefix: str) -> None:
    backend = DatabaseBackend(server, timeout=20, key_prefix=prefix)
    for number in range(REPEATED):
        calls = [[ask(FIXED_WINDOW, (f"{number} {i}", "")), ask(CONCURRENCY, (f"{number} {i}", ""))] for i in range(20)]
        assert len(set(map(tuple, backend.apply_each(calls)))) == 1
    backend.clear()
    backend.close()
