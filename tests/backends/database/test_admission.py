"""How many may pass: 4 processes with 8 threads each on one database and its clock; and who gets the one probe."""

from __future__ import annotations

import json
from contextlib import ExitStack

from ratelimit_core.backends.database import DatabaseBackend
from ratelimit_core.policies import ALLOWED
from tests import databases
from tests.limiter import hammer
from tests.limiter.test_admission import DOCUMENTED, PROCESSES, busiest, hammered, most_at_a_time
from tests.servers import Process

from .probes import ROUNDS, opening


def test_no_more_pass_than_is_documented(alias: str) -> None:
    spans = hammered("-m", "tests.backends.database.hammer", alias, environ=databases.child_environ(alias))
    for algorithm, documented in DOCUMENTED.items():
        assert busiest(spans[algorithm]) <= documented, algorithm
        assert len(spans[algorithm]) > documented, algorithm  # they wanted more than once what there is
    assert 1 < most_at_a_time(spans["places"]) <= hammer.PLACES


def test_one_probe_among_processes(alias: str, prefix: str) -> None:
    backend = DatabaseBackend(alias, timeout=20, key_prefix=prefix)
    for number in range(ROUNDS):
        assert backend.apply([opening(number)])[0][ALLOWED]
    command = ("-m", "tests.backends.database.probes", alias, prefix)
    with ExitStack() as stack:
        racers = [
            stack.enter_context(Process.python(*command, environ=databases.child_environ(alias)))
            for _ in range(PROCESSES)
        ]
        for racer in racers:
            racer.wait_for("ready")
        for racer in racers:
            racer.tell("go")
        got = [json.loads(racer.wait_for("got").partition(" ")[2]) for racer in racers]
    assert [sum(each) for each in zip(*got, strict=True)] == [1] * ROUNDS
    backend.clear()
