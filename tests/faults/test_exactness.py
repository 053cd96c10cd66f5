"""No interval of one period sees more than the docs say, on any store, at any moment of a long siege."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests import databases
from tests.limiter import hammer
from tests.limiter.test_admission import DOCUMENTED, THREADS, busiest, hammered, most_at_a_time

from .table import Row

SECONDS = 15
STORES = ["memory", "valkey", "multi", "sqlite", "postgresql", "mariadb"]


def besieged(store: str, request: pytest.FixtureRequest) -> dict[str, hammer.Spans]:
    environ = {"HAMMER_SECONDS": str(SECONDS)}
    if store == "memory":
        return hammered("-m", "tests.limiter.hammer", "", store, THREADS, environ=environ, processes=1)
    if store in ("valkey", "multi"):
        return hammered("-m", "tests.limiter.hammer", request.getfixturevalue("valkey_url"), store, environ=environ)
    alias = request.getfixturevalue(store)
    return hammered("-m", "tests.backends.database.hammer", alias, environ=environ | databases.child_environ(alias))


@pytest.mark.whole
@pytest.mark.parametrize("store", STORES)
def test_no_interval_of_a_siege_sees_more_than_is_documented(
    store: str, request: pytest.FixtureRequest, saw: Callable[[Row], None]
) -> None:
    spans = besieged(store, request)
    most = {algorithm: busiest(spans[algorithm]) for algorithm in DOCUMENTED}
    most_places = most_at_a_time(spans["places"])
    over = sum(max(0, most[algorithm] - documented) for algorithm, documented in DOCUMENTED.items())
    over += max(0, most_places - hammer.PLACES)
    got = ", ".join(f"{most[algorithm]} of {documented} {algorithm}" for algorithm, documented in DOCUMENTED.items())
    saw(
        Row(
            "Exactness",
            f"32 callers want more than there is, on {store}",
            f"{'32 threads' if store == 'memory' else '4 processes of 8 threads'} for {SECONDS} s",
            upstream_calls=f"{got}, {most_places} of {hammer.PLACES} concurrency",
            over_admitted=over,
        )
    )
    assert all(len(spans[algorithm]) > 4 * hammer.LIMIT for algorithm in DOCUMENTED), "they were kept busy"
    assert most_places > 1
    assert over == 0, got
