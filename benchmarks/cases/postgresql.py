"""A check of a limiter whose state is in PostgreSQL: checks a second, and statements a check."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import repeat
from typing import Any

from .. import report
from ..limiters import LIMIT, of_keys
from ..measure import MICRO, Call, Contender, Pace, take_turns
from ..stage import django

TITLE = "A check of a limiter on PostgreSQL"
FLOOR = "one upsert"
ALIAS = "default"


def run(pace: Pace) -> report.Report:
    django(apps=["django.contrib.contenttypes", "django.contrib.auth", "django_smart_ratelimit"])
    from django.core.management import call_command
    from django.db import connections

    from tests import databases

    connections[ALIAS].close()
    del connections[ALIAS]  # no database is configured there
    with ExitStack() as stack:
        stack.enter_context(databases.postgresql(ALIAS))
        call_command("migrate", "django_smart_ratelimit", database=ALIAS, verbosity=0, skip_checks=True)
        with _statements() as count:
            contenders = [Contender(FLOOR, _upsert(stack.enter_context(databases.twin(ALIAS))), "floor")]
            contenders += [
                Contender(f"django-smart-ratelimit, {algorithm.replace('_', ' ')}", _smart(algorithm))
                for algorithm in ("fixed_window", "sliding_window", "token_bucket")
            ]
            contenders += [
                Contender(f"resilient-tasks, {algorithm.replace('_', ' ')}", _ours(algorithm), "ours")
                for algorithm in ("fixed_window", "sliding_window", "token_bucket")
            ]
            asked = {each.name: (count(each.call), None) for each in contenders}
        samples = take_turns(contenders, pace)
    found = report.figures(contenders, samples, asked=asked)
    a_second = {each.name: MICRO / each.wall.median for each in found}
    statements = {name: number for name, (number, _) in asked.items()}
    peers = [each.name for each in contenders if each.role == "peer"]
    best = report.most(a_second, peers)
    rows = [
        report.Row(
            f"PostgreSQL, {algorithm}: checks a second",
            "/s",
            ours=a_second[f"resilient-tasks, {algorithm}"],
            target=5 * best.value,
            better="more",
            peers=[best],
            floor=report.Best(FLOOR, a_second[FLOOR]),
        )
        for algorithm in ("token bucket", "sliding window")
    ]
    rows.append(
        report.Row(
            "PostgreSQL, token bucket: statements a check",
            "",
            ours=statements["resilient-tasks, token bucket"],
            target=1,
            peers=[report.least(statements, peers)],
        )
    )
    return report.Report(rows, {TITLE: found})


@contextmanager
def _statements() -> Iterator[Callable[[Call], float]]:
    """Yield a function that counts the statements of a call on all connections of Django, from libpq's trace.

    Connections that are opened meanwhile are no longer traced afterwards.
    """
    from django.db import connections
    from django.db.backends.signals import connection_created

    with tempfile.TemporaryFile("w+") as log:
        watched: list[Any] = []

        def watch(connection: Any, **_: Any) -> None:
            watched.append(connection.connection.pgconn)
            watched[-1].trace(log.fileno())

        def count(call: Call, times: int = 100) -> float:
            for _ in repeat(None, 100):  # once for each key, so that no record is created while statements are counted
                call()
            log.seek(0)
            log.truncate()
            for _ in repeat(None, times):
                call()
            log.seek(0)
            return sum(line.split("\t")[3] in ("Query", "Execute") for line in log if line.count("\t") > 2) / times

        connection_created.connect(watch)
        connections[ALIAS].close()
        try:
            yield count
        finally:
            connection_created.disconnect(watch)
            for each in watched:
                each.untrace()


def _upsert(alias: str) -> Call:
    """Return the cheapest possible count in a table, committed asynchronously as by this library."""
    from django.db import connections

    connection = connections[alias]
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE floor (key text PRIMARY KEY, count bigint NOT NULL)")
        cursor.execute("SET synchronous_commit = off")

    def check(key: str) -> object:
        with connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO floor VALUES (%s, 1) ON CONFLICT (key) DO UPDATE SET count = floor.count + 1 "
                "RETURNING count",
                [key],
            )
            return cursor.fetchone()

    return of_keys(check)


def _smart(algorithm: str) -> Call:
    from django_smart_ratelimit.backends.database import DatabaseBackend

    backend: Any = DatabaseBackend(algorithm=algorithm)
    if algorithm == "token_bucket":
        return of_keys(lambda key: backend.token_bucket_check(key, LIMIT, LIMIT, LIMIT, 1))
    return of_keys(lambda key: backend.incr(key, 1) <= LIMIT)


def _ours(algorithm: Any) -> Call:
    from ratelimit_core import Limiter
    from ratelimit_core.backends import DatabaseBackend

    backend = DatabaseBackend(ALIAS, timeout=5)  # so that a busy machine causes no timeouts
    limiter = Limiter(f"{LIMIT}/s", key="benchmark", algorithm=algorithm, backend=backend)
    return of_keys(lambda key: limiter.hit(key=key))
